"""What networks are put together from."""

from __future__ import annotations

from math import gcd
from typing import Final

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
