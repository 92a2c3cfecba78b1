"""What networks are put together from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import gcd
from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from common.errors import ModelError

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
USUAL_GROUPS: Final = 8
"""Groups of a group normalisation where the study leaves them out, as far as they divide."""

_LEAST: Final = 1e-12
"""Added before the root of a variance, whose slope at zero is infinite."""


class Residual(nn.Module):
    """What goes in is added to what comes out (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The input and what the inner layers make of it; both have one shape."""
        changed: torch.Tensor = self.inner(value)
        return value + changed


def group_norm(groups: int | None, channels: int) -> nn.GroupNorm:
    """Left out, the number of groups fits the channels; one that was asked for has to.

    Raises:
        ModelError: it does not.
    """
    groups = gcd(USUAL_GROUPS, channels) if groups is None else groups
    if channels % groups:
        raise ModelError(
            "the channels cannot be split into groups",
            where="[model] groups",
            found=f"{channels} channels, {groups} groups",
            wanted="a number of groups that divides the channels of every layer",
            remedy="leave groups out, or choose widths that it divides",
        )
    return nn.GroupNorm(groups, channels)


def image_norm(kind: str, groups: int | None, channels: int) -> nn.GroupNorm:
    """``group`` or ``instance`` normalisation, with a scale and a shift of each channel.

    Raises:
        ModelError: as :func:`group_norm`.
    """
    # Not nn.InstanceNorm2d, which is the same function: in torch 2.13, tanh or SiLU behind it gives
    # one image in channels_last a wrong gradient.
    return group_norm(channels if kind == "instance" else groups, channels)


def normalise_by_image(
    model: nn.Module, kind: str, groups: int | None, *, outputs: int | None = None
) -> nn.Module:
    """The same model with :func:`image_norm` wherever it has batch normalisation.

    Args:
        model: its modules are replaced.
        kind: as there.
        groups: as there.
        outputs: channels of a layer whose width is the task's: groups fit it as well as they can.

    Raises:
        ModelError: as there.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                channels = child.num_features
                fitting = gcd(groups, channels) if groups and channels == outputs else groups
                setattr(parent, name, image_norm(kind, fitting, channels))
    return model


class Tokens(nn.Module):
    """Places of a feature map as tokens that know their position, after a token of the class.

    It maps (items, features, height, width) to (items, 1 + places, features).

    Args:
        places: height times width.
        features: of a place.
    """

    def __init__(self, places: int, features: int) -> None:
        super().__init__()
        # The first is the token of the class itself: nothing of the image is at its place.
        self.positions = nn.Parameter(torch.empty(1, 1 + places, features))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Tokens of each image by itself."""
        tokens = value.flatten(2).transpose(1, 2)
        return functional.pad(tokens, (0, 0, 1, 0)) + self.positions


class FirstToken(nn.Module):
    """The token of the class: (items, tokens, features) to (items, features)."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The first of each image."""
        return value[:, 0]


class SamePadding(nn.Module):
    """Zeros around an image, as TensorFlow's ``same``: an odd one lies below and to the right.

    Args:
        kernel: pixels of a side of the convolution that follows, which pads nothing itself.
        stride: of that convolution, which then gives ``ceil(side / stride)`` pixels a side.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The image with its zeros."""
        # int: to an exporter of graphs a constant, since a study has one size.
        high, wide = (self._zeros(int(side)) for side in value.shape[2:])
        sides = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        return functional.pad(value, sides)

    def _zeros(self, side: int) -> int:
        return max(0, self.kernel - (side % self.stride or self.stride))


class InvertedResidual(nn.Sequential):
    """Widen, filter each channel by itself, narrow (Sandler et al. 2018, arXiv:1801.04381).

    What goes in is added where it has the shape of what comes out.

    Args:
        channels: of the input.
        kernel: pixels of a side of the filters.
        stride: of the filters.
        widening: channels of the filters, for each of the input.
        narrowed: channels of the output.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, widening: int, narrowed: int
    ) -> None:
        wide, layers = channels * widening, OrderedDict[str, nn.Module]()
        if widening > 1:
            layers |= {"expand": nn.Conv2d(channels, wide, 1), "expanded": nn.ReLU6()}
        layers["padding"] = SamePadding(kernel, stride)
        layers["depthwise"] = nn.Conv2d(wide, wide, kernel, stride, groups=wide)
        layers |= {"filtered": nn.ReLU6(), "project": nn.Conv2d(wide, narrowed, 1)}
        super().__init__(layers)
        self.adds = stride == 1 and channels == narrowed

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Feature maps of each image by itself."""
        found = value
        for layer in self:
            found = layer(found)
        return value + found if self.adds else found


class EfficientNetLite(nn.Module):
    """Inverted residuals between a first and a last convolution, for images of one or 3 channels.

    Args:
        blocks: between them.
        stem: channels of the first convolution.
        top: the last convolution and what follows it; None where the blocks are the last.
        pooling: maps (items, channels, height, width) to (items, features).
        head: of the features.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        stem: int,
        top: nn.Conv2d | None,
        pooling: nn.Module,
        head: nn.Linear,
    ) -> None:
        super().__init__()
        self.padding = SamePadding(3, 2)
        self.stem, self.begun = nn.Conv2d(3, stem, 3, stride=2), nn.ReLU6()
        self.blocks = nn.Sequential(*blocks)
        self.top, self.ended = top, nn.ReLU6()
        self.pooling, self.head = pooling, head
        # Without normalisation torch's own would let 16 blocks fade to nothing; variances of He
        # et al. 2015 (arXiv:1502.01852) keep the size of what goes through.
        for name, each in self.named_modules():
            if isinstance(each, nn.Conv2d) and each.bias is not None:
                after: Literal["linear", "relu"] = "linear" if name.endswith("project") else "relu"
                nn.init.kaiming_normal_(each.weight, nonlinearity=after)
                nn.init.zeros_(each.bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Outputs of each image by itself; a grey one fills all three channels."""
        colour = torch.cat([pixels] * 3, dim=1) if pixels.shape[1] == 1 else pixels
        maps = self.blocks(self.begun(self.stem(self.padding(colour))))
        if self.top is not None:
            maps = self.ended(self.top(maps))
        found: torch.Tensor = self.head(self.pooling(maps))
        return found


class AverageAndSpread(nn.Module):
    """Mean and standard deviation of each channel over the places of an image.

    It maps (items, channels, height, width) to (items, 2 x channels), all means first.
    """

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Features of each image by itself; one place has no spread."""
        places = int(value.shape[2]) * int(value.shape[3])
        mean = functional.adaptive_avg_pool2d(value, 1)
        squares = functional.adaptive_avg_pool2d((value - mean) ** 2, 1)
        spread = torch.sqrt(squares * (places / max(1, places - 1)) + _LEAST)
        return torch.cat([mean, spread], dim=1).flatten(1)
