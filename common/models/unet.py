"""``unet``: MONAI's U-Net, for tasks with a number for each pixel.

Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), with the strided convolutions and residual
blocks of Kerfoot et al. 2019 (STACOM 2018, LNCS 11395). Without dropout, whose random numbers
would be nobody's, and normalised within one image.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from common.bounded import Bound
from common.models.spec import (
    GROUPS,
    RESIDUAL_UNITS,
    WIDTHS,
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

STRIDES: Final = Bound(
    *("model.strides", "strides", "stride of a convolution", 1, 4, (1, 2)),
    why="1 keeps the size; more than 4 skips pixels",
)


class UNetSpec(ModelSpec):
    """``[model]`` of a U-Net.

    Attributes:
        widths: channels of each level, the one with the most pixels first.
        strides: by how much each level is smaller than the one above, one number fewer than
            widths; left out, 2 each.
        residual_units: convolutions of the residual block of each level; 0 leaves the blocks out.
        norm: ``group`` or ``instance`` normalisation after each convolution.
        groups: number of groups of a group normalisation; left out, 8 or what divides.
        activation: what follows each normalisation; ``prelu`` learns its slope below zero.
    """

    dense: ClassVar[bool] = True
    bounds: ClassVar[tuple[Bound, ...]] = (WIDTHS, GROUPS, STRIDES, RESIDUAL_UNITS)

    name: Literal["unet"] = "unet"
    widths: tuple[Width, ...] = Field(default=(16, 32, 64), min_length=2, max_length=6)
    strides: tuple[Annotated[int, STRIDES], ...] | None = None
    residual_units: Annotated[int, RESIDUAL_UNITS] = 2
    norm: ImageNorm = "group"
    groups: Groups = None
    activation: Literal["prelu", "relu"] = "prelu"

    @model_validator(mode="after")
    def _one_stride_between_two_levels(self) -> Self:
        if self.strides is not None and len(self.strides) != len(self.widths) - 1:
            raise ValueError(
                f"strides has {len(self.strides)} numbers, widths {len(self.widths)}; "
                "strides should have one number fewer"
            )
        return self

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        strides = self.strides or (2,) * (len(self.widths) - 1)
        require_multiple(self.name, shape, prod(strides))

        from monai.networks.nets import UNet

        from common.models.blocks import normalise_by_image

        model = UNet(
            spatial_dims=2,
            in_channels=shape.channels,
            out_channels=heads.outputs,
            channels=self.widths,
            strides=strides,
            num_res_units=self.residual_units,
            act=self.activation,
            norm="batch",
            dropout=0.0,
        )
        # In MONAI every layer has as many groups, which need not divide the outputs.
        return normalise_by_image(model, self.norm, self.groups, outputs=heads.outputs)
