"""MONAI's networks for whole images, with group normalisation and nothing left to chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

from common.bounded import Bound
from common.models.spec import GROUPS, Groups, ModelSpec, Shape
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn


class GroupedSpec(ModelSpec):
    """What they have in common: group normalisation wherever MONAI has that of a batch.

    Attributes:
        groups: number of groups of a group normalisation; left out, 8 or what divides.
    """

    bounds: ClassVar[tuple[Bound, ...]] = (GROUPS,)

    groups: Groups = None

    def network(self, shape: Shape, heads: Heads) -> nn.Module:
        """MONAI's own, which normalises by batch."""
        raise NotImplementedError

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        from common.models.blocks import normalise_by_image

        return normalise_by_image(self.network(shape, heads), "group", self.groups)


class ResNet18Spec(GroupedSpec):
    """``[model]`` of a ResNet of 18 layers (He, Zhang, Ren and Sun 2016, arXiv:1512.03385)."""

    name: Literal["resnet18"] = "resnet18"

    def network(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`GroupedSpec.network`."""
        # Two seconds, which a coordinator that starts a study of another model does not spend.
        from monai.networks.nets import resnet18

        model: nn.Module = resnet18(
            spatial_dims=2, n_input_channels=shape.channels, num_classes=heads.outputs
        )
        return model


class ResNet50Spec(GroupedSpec):
    """``[model]`` of a ResNet of 50 layers, in bottlenecks (He, Zhang, Ren and Sun 2016)."""

    name: Literal["resnet50"] = "resnet50"

    def network(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`GroupedSpec.network`."""
        from monai.networks.nets import resnet50

        model: nn.Module = resnet50(
            spatial_dims=2, n_input_channels=shape.channels, num_classes=heads.outputs
        )
        return model


class SEResNet50Spec(GroupedSpec):
    """``[model]`` of a ResNet-50 that weighs channels (Hu, Shen and Sun 2018, arXiv:1709.01507)."""

    name: Literal["seresnet50"] = "seresnet50"

    def network(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`GroupedSpec.network`."""
        from monai.networks.nets import SEResNet50

        model: nn.Module = SEResNet50(
            spatial_dims=2, in_channels=shape.channels, num_classes=heads.outputs
        )
        return model


class DenseNet121Spec(GroupedSpec):
    """``[model]`` of a DenseNet of 121 layers (Huang et al. 2017, arXiv:1608.06993)."""

    name: Literal["densenet121"] = "densenet121"

    def network(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`GroupedSpec.network`."""
        from monai.networks.nets import DenseNet121

        model: nn.Module = DenseNet121(
            spatial_dims=2, in_channels=shape.channels, out_channels=heads.outputs
        )
        return model


B0: Final = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
"""Blocks of EfficientNet-B0 as MONAI writes them: how many, size, stride, widening, channels."""


class EfficientNetB0Spec(GroupedSpec):
    """``[model]`` of an EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946).

    Without dropout and without blocks that are left out by chance ("drop connect"), whose random
    numbers would be nobody's.
    """

    name: Literal["efficientnet_b0"] = "efficientnet_b0"

    def network(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`GroupedSpec.network`."""
        from monai.networks.nets import EfficientNet
        from torch import nn

        model: nn.Module = EfficientNet(
            list(B0),
            spatial_dims=2,
            in_channels=shape.channels,
            num_classes=heads.outputs,
            dropout_rate=0.0,
            drop_connect_rate=0.0,
            image_size=shape.height,  # of what convolutions are padded to; a width is padded alike
        )
        # MONAI's own form of the function is neither in graphs nor known to the private engine.
        for module in list(model.modules()):
            if hasattr(module, "_swish"):
                module._swish = nn.SiLU()  # noqa: SLF001 - no public way to another class
        return model
