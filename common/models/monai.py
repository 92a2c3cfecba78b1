"""``resnet18`` and ``densenet121``: MONAI's, with group normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from common.bounded import Bound
from common.models.spec import GROUPS, Groups, ModelSpec, Shape
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn


class ResNet18Spec(ModelSpec):
    """``[model]`` of a ResNet of 18 layers (He, Zhang, Ren and Sun 2016, arXiv:1512.03385).

    Attributes:
        groups: number of groups of a group normalisation; left out, 8 or what divides.
    """

    bounds: ClassVar[tuple[Bound, ...]] = (GROUPS,)

    name: Literal["resnet18"] = "resnet18"
    groups: Groups = None

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        # Two seconds, which a coordinator that starts a study of another model does not spend.
        from monai.networks.nets import resnet18

        from common.models.blocks import normalise_by_image

        model = resnet18(spatial_dims=2, n_input_channels=shape.channels, num_classes=heads.outputs)
        return normalise_by_image(model, "group", self.groups)


class DenseNet121Spec(ModelSpec):
    """``[model]`` of a DenseNet of 121 layers (Huang et al. 2017, arXiv:1608.06993).

    Attributes:
        groups: number of groups of a group normalisation; left out, 8 or what divides.
    """

    bounds: ClassVar[tuple[Bound, ...]] = (GROUPS,)

    name: Literal["densenet121"] = "densenet121"
    groups: Groups = None

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        from monai.networks.nets import DenseNet121

        from common.models.blocks import normalise_by_image

        model = DenseNet121(spatial_dims=2, in_channels=shape.channels, out_channels=heads.outputs)
        return normalise_by_image(model, "group", self.groups)
