"""``cnn``: a few convolutions of 3 x 3 with pooling, and a dense layer or two."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field

from common.bounded import Bound
from common.models.spec import GROUPS, WIDTHS, Activation, Groups, ModelSpec, NotBatch, Shape, Width
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn

HIDDEN: Final = Bound(
    *("model.hidden", "hidden", "width of the dense layer", 1, 65_536, (0, 1024)),
    why="wider layers do not fit in memory",
    zero=True,
)


class CnnSpec(ModelSpec):
    """``[model]`` of a small network of convolutions.

    Attributes:
        widths: output channels of each convolution.
        norm: ``group`` puts group normalisation after each convolution.
        groups: number of groups of a group normalisation; left out, 8 or what divides.
        activation: what follows each convolution.
        pooling: ``flatten`` keeps the last feature map, ``average`` its mean.
        hidden: width of the dense layer before the last; 0 leaves it out.
    """

    bounds: ClassVar[tuple[Bound, ...]] = (WIDTHS, GROUPS, HIDDEN)

    name: Literal["cnn"] = "cnn"
    widths: tuple[Width, ...] = Field(default=(16, 16, 16), min_length=1, max_length=8)
    norm: Annotated[Literal["none", "group"], NotBatch] = "group"
    groups: Groups = None
    activation: Activation = "relu"
    pooling: Literal["flatten", "average"] = "average"
    hidden: Annotated[int, HIDDEN] = 0

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        from torch import nn

        from common.models.blocks import ACTIVATIONS, group_norm

        layers: list[nn.Module] = []
        for before, after in pairwise((shape.channels, *self.widths)):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1)]
            if self.norm == "group":
                layers += [group_norm(self.groups, after)]
            layers += [ACTIVATIONS[self.activation](), nn.MaxPool2d(kernel_size=2)]
        if self.pooling == "average":
            layers += [nn.AdaptiveAvgPool2d(1)]
        layers += [nn.Flatten()]
        features = self._features(shape)
        if self.hidden:
            layers += [nn.Linear(features, self.hidden), ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers, nn.Linear(self.hidden or features, heads.outputs))

    def _features(self, shape: Shape) -> int:
        if self.pooling == "average":
            return self.widths[-1]
        height, width = (side >> len(self.widths) for side in (shape.height, shape.width))
        return self.widths[-1] * max(height * width, 1)
