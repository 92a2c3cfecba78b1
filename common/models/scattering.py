"""``scattering``: one linear layer on fixed wavelet features, and nothing else is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from common.bounded import Bound
from common.models.spec import ModelSpec, Shape, too_small
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn

SCALES: Final = Bound(
    *("model.scales", "scales", "how many times scattering halves the image", 1, 6, (1, 4)),
    why="after six halvings nothing of the image is left",
)
ORIENTATIONS: Final = Bound(
    *("model.orientations", "orientations", "directions of the wavelets", 2, 32, (4, 16)),
    why="one direction misses half of the edges; more than 32 add nothing",
)


class ScatteringSpec(ModelSpec):
    """``[model]`` of a linear layer on :class:`common.models.wavelets.Scattering`.

    Attributes:
        scales: how often the image is halved.
        orientations: directions of the wavelets.
    """

    bounds: ClassVar[tuple[Bound, ...]] = (SCALES, ORIENTATIONS)

    name: Literal["scattering"] = "scattering"
    scales: Annotated[int, SCALES] = 2
    orientations: Annotated[int, ORIENTATIONS] = 8

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        from torch import nn

        from common.models.wavelets import Scattering

        stem = Scattering(self.scales, self.orientations)
        if min(shape.height, shape.width) < stem.smallest:
            raise too_small(self.name, shape, stem.smallest)
        features = stem.channels(shape.channels)
        features *= (shape.height >> self.scales) * (shape.width >> self.scales)
        return nn.Sequential(stem, nn.Flatten(), nn.Linear(features, heads.outputs))
