"""``resunet``: a small residual encoder and decoder, for tasks with a number for each pixel.

After Zhang, Liu and Wang 2018 (arXiv:1711.10684), with few weights: noise for privacy grows with
their number. So skip connections add instead of concatenating, and images are enlarged by
interpolation, after a 1 x 1 convolution where they are small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from common.bounded import Bound
from common.models.spec import (
    GROUPS,
    RESIDUAL_UNITS,
    WIDTHS,
    Activation,
    Groups,
    ImageNorm,
    ModelSpec,
    Shape,
    Width,
    require_multiple,
)
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn


class ResUNetSpec(ModelSpec):
    """``[model]`` of a small residual U-Net.

    Attributes:
        widths: channels of each level, the one with the most pixels first; each further level has
            half the height and width.
        residual_units: convolutions of each residual block; 0 leaves the blocks out.
        norm: ``group`` or ``instance`` normalisation before each convolution.
        groups: number of groups of a group normalisation; left out, 8 or what divides.
        activation: what follows each normalisation.
        upsampling: how an image is enlarged: ``nearest`` or ``bilinear``.
    """

    dense: ClassVar[bool] = True
    bounds: ClassVar[tuple[Bound, ...]] = (WIDTHS, GROUPS, RESIDUAL_UNITS)

    name: Literal["resunet"] = "resunet"
    widths: tuple[Width, ...] = Field(default=(16, 32, 64), min_length=2, max_length=6)
    residual_units: Annotated[int, RESIDUAL_UNITS] = 1
    norm: ImageNorm = "group"
    groups: Groups = None
    activation: Activation = "relu"
    upsampling: Literal["nearest", "bilinear"] = "nearest"

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        require_multiple(self.name, shape, 2 ** (len(self.widths) - 1))

        from torch import nn

        first = self.widths[0]
        return nn.Sequential(
            nn.Conv2d(shape.channels, first, kernel_size=3, padding=1),
            self._level(self.widths),
            *self._before(first),
            nn.Conv2d(first, heads.outputs, kernel_size=1),
        )

    def _level(self, widths: tuple[int, ...]) -> nn.Module:
        """One level and all that are smaller; as many channels and pixels out as in."""
        from torch import nn

        from common.models.blocks import Residual

        width, *smaller = widths
        if not smaller:
            return self._block(width)
        below = Residual(
            nn.Conv2d(width, smaller[0], kernel_size=3, stride=2, padding=1),
            self._level(tuple(smaller)),
            nn.Conv2d(smaller[0], width, kernel_size=1),
            nn.Upsample(scale_factor=2, mode=self.upsampling),
        )
        return nn.Sequential(self._block(width), below, self._block(width))

    def _block(self, width: int) -> nn.Module:
        from torch import nn

        from common.models.blocks import Residual

        if not self.residual_units:
            return nn.Identity()
        layers: list[nn.Module] = []
        for _ in range(self.residual_units):
            layers += [*self._before(width), nn.Conv2d(width, width, kernel_size=3, padding=1)]
        return Residual(*layers)

    def _before(self, width: int) -> list[nn.Module]:
        from common.models.blocks import ACTIVATIONS, image_norm

        return [image_norm(self.norm, self.groups, width), ACTIVATIONS[self.activation]()]
