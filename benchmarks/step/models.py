"""The models, with a batch for each: group normalisation wherever the original has batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from monai.networks.nets import DenseNet121, resnet18
from monai.networks.nets.resnet import ResNetBlock
from torch import nn

from client.engine.choice import example_of
from client.engine.clipped import Patients
from client.training.targets import TARGETS
from common.devices.device import Device
from common.models.spec import Shape
from common.models.unet import UNetSpec
from common.tasks.classification import Classification
from common.tasks.segmentation import Segmentation
from common.tasks.task import Task

_TWO_CLASSES: Final = Classification(classes=("normal", "ill"))
_NORM: Final = ("group", {"num_groups": 8})


@dataclass(frozen=True)
class Setting:
    """A model and the batch that it is trained on.

    Attributes:
        name: of the model.
        build: makes the model, the same each time.
        batch: random images, one a patient.
        turns: steps over which medians are taken.
        task: whose loss it is.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Patients
    turns: int
    task: Task


def _setting(
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    patients: int,
    turns: int,
    *,
    task: Task = _TWO_CLASSES,
) -> Setting:
    def same() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    batch = example_of(shape, patients, 1, same())
    targets = TARGETS[task.target].made_up(task, patients, 1, (shape[1], shape[2]))
    return Setting(name, same, Patients(batch.inputs, targets), turns, task)


def in_float64(setting: Setting, patients: int) -> Setting:
    """The same model and the first patients of its batch, in double precision."""
    some = setting.batch[slice(0, patients)]
    return replace(
        setting,
        build=lambda: setting.build().double(),
        batch=Patients(some.inputs.double(), some.targets),
    )


def on_device(setting: Setting, device: Device) -> Setting:
    """The same model and batch where a device computes."""
    batch = Patients(*map(device.move, (setting.batch.inputs, setting.batch.targets)))
    return replace(setting, build=lambda: device.place(setting.build(), "contiguous"), batch=batch)


def of_patients(setting: Setting, patients: int) -> Setting:
    """The same model and a batch of so many patients, all as the first ones."""
    rows = torch.arange(patients) % len(setting.batch)
    return replace(setting, batch=setting.batch[rows])


def _cnn(channels: int, side: int) -> nn.Module:
    """Three convolutions with pooling and a dense layer, as in tutorials of the field."""
    layers: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    features = 128 * (side // 8) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 2)
    )


def _resnet() -> nn.Module:
    """With the stride of 2 in the first convolution that He et al. 2016 have."""
    return _for_hooks(
        resnet18(
            spatial_dims=2, n_input_channels=3, num_classes=2, norm=_NORM, conv1_t_stride=(2, 2)
        )
    )


def _densenet() -> nn.Module:
    return _for_hooks(DenseNet121(spatial_dims=2, in_channels=3, out_channels=2, norm=_NORM))


class _Copy(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value.clone()


def _for_hooks(model: nn.Module) -> nn.Module:
    """Nothing in place, which Opacus' hooks cannot take; MONAI's resnet18 norms only once."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(8, child.num_features))
            elif isinstance(child, nn.ReLU):
                child.inplace = False
        if isinstance(parent, ResNetBlock):
            parent.bn2 = nn.Sequential(parent.bn2, _Copy())
    return model


def _unet(side: int, patients: int, turns: int) -> Setting:
    """The U-Net that a study gets that names no settings, with Dice and cross-entropy."""
    task, shape = Segmentation(classes=("lesion",)), (1, side, side)
    build = partial(UNetSpec().build, Shape(*shape), task.heads())
    return _setting(f"unet-{side}", build, shape, patients, turns, task=task)


LARGE: Final[dict[str, Callable[[], Setting]]] = {
    "resnet18-224": partial(_setting, "resnet18-224", _resnet, (3, 224, 224), 64, 21),
    "densenet121-224": partial(_setting, "densenet121-224", _densenet, (3, 224, 224), 64, 11),
}
"""For a graphics card."""
MODELS: Final[dict[str, Callable[[], Setting]]] = {
    "cnn-28": partial(_setting, "cnn-28", partial(_cnn, 1, 28), (1, 28, 28), 64, 41),
    "cnn-128": partial(_setting, "cnn-128", partial(_cnn, 3, 128), (3, 128, 128), 32, 11),
    "resnet18-64": partial(_setting, "resnet18-64", _resnet, (3, 64, 64), 32, 11),
    "densenet121-64": partial(_setting, "densenet121-64", _densenet, (3, 64, 64), 32, 9),
    "unet-64": partial(_unet, 64, 32, 11),
    "unet-128": partial(_unet, 128, 16, 7),
}
