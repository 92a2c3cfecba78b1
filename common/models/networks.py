"""The shared models, none of which lets one patient's image touch another's.

Batch normalisation mixes the patients of a batch, so that no gradient belongs to one
patient and no clip bounds what a patient changes (Yousefpour et al. 2021, section 2): a
model that has it is refused. Weights travel as one flat float32 array in the order of
``Module.named_parameters``; a model with other state is refused too, since it would not
travel.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import gcd
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.errors import ModelError
from common.models.scattering import Scattering
from common.process import denormals  # noqa: F401 - before anything is computed
from common.study.study_file import ModelSpec, Study

_ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
MOST_WEIGHTS: Final = 2**27
"""Weights of the largest model: 512 MiB on the wire. A study that was received may ask for more."""
GROUPS: Final = 8
"""Groups of a group normalisation where the study leaves them out, as far as they divide."""
_BATCH_NORMS: Final = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)  # noqa: SLF001 - no public base class


def build_model(study: Study) -> nn.Module:
    """The study's network, in training mode, its weights not yet meaningful.

    It maps float32 (batch, channels, height, width) to logits (batch, classes). Nothing is built
    before its shapes are known to fit together.

    Raises:
        ModelError: the image size does not fit, or the model cannot be trained privately.
    """
    weights_count(study)
    return _built(study)


def sketch(study: Study) -> nn.Module:
    """The study's network without numbers, on torch's ``meta`` device: shapes alone.

    It takes no memory and computes nothing, whatever the study asks for.

    Raises:
        ModelError: as :func:`build_model`.
    """
    with torch.device("meta"):
        model = _built(study)
    _check_image_size(model, study.model.name, study.data.channels, study.data.image_size)
    return model


def _built(study: Study) -> nn.Module:
    spec, data = study.model, study.data
    classes = len(study.task.classes)
    if spec.name == "cnn":
        model: nn.Module = _cnn(spec, data.channels, data.image_size, classes)
    elif spec.name == "scattering":
        model = _scattering(spec, data.channels, data.image_size, classes)
    else:
        model = _monai(spec, data.channels, classes)
    check_private(model)
    return model


def check_private(model: nn.Module) -> None:
    """Refuse a model in which patients meet, or whose state would not travel.

    Raises:
        ModelError: names the module at fault.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise ModelError(
                "batch normalisation mixes the patients of a batch",
                where=f"module {name}",
                found=type(module).__name__,
                wanted="group, layer or instance normalisation without running statistics",
                remedy='for cnn write norm = "group" in [model]',
            )
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise ModelError(
            "a model may hold no state other than its parameters",
            where="buffers",
            found=", ".join(buffers),
            remedy="leave out running statistics",
        )


def flatten(model: nn.Module) -> npt.NDArray[np.float32]:
    """All parameters as one flat float32 array."""
    with torch.no_grad():
        return torch.cat([value.reshape(-1) for value in model.parameters()]).numpy().copy()


@lru_cache(maxsize=16)
def weights_count(study: Study) -> int:
    """How many weights the study's model has, of which none is made for it.

    Raises:
        ModelError: as :func:`build_model`.
    """
    return sum(value.numel() for value in sketch(study).parameters())


def load_flat(model: nn.Module, weights: npt.NDArray[np.float32]) -> None:
    """Put a flat float32 array into the model's parameters.

    Raises:
        ValueError: the array has another length than the model has weights.
    """
    start = 0
    values = torch.from_numpy(np.array(weights, dtype=np.float32))
    if values.numel() != sum(value.numel() for value in model.parameters()):
        raise ValueError(f"{values.numel()} weights do not fit the model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(values[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()


def initial_weights(study: Study, seed: int) -> npt.NDArray[np.float32]:
    """The flat float32 weights of round zero: torch's own initialisation, from ``seed``."""
    return flatten(seeded_model(study, seed))


def seeded_model(study: Study, seed: int) -> nn.Module:
    """The study's network with the weights of round zero."""
    # Leaves torch's global generator as it was: no other draw may depend on this one.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(study)


def _scattering(
    spec: ModelSpec, channels: int, image_size: tuple[int, int], classes: int
) -> nn.Module:
    """Fixed first layers and one linear layer: nothing else is learned."""
    stem = Scattering(spec.scales, spec.orientations)
    if min(image_size) < stem.smallest:
        raise _too_small(spec.name, image_size, stem.smallest)
    height, width = (side >> spec.scales for side in image_size)
    features = stem.channels(channels) * height * width
    _check_weights(features * classes, "[model] scales, orientations, [data] image_size")
    return nn.Sequential(stem, nn.Flatten(), nn.Linear(features, classes))


def _cnn(spec: ModelSpec, channels: int, image_size: tuple[int, int], classes: int) -> nn.Module:
    # 3 x 3 weights for each pair of channels. Counted before anything is built: a study that was
    # received may ask for more than the memory holds.
    convolutions = sum(9 * before * after for before, after in pairwise((channels, *spec.widths)))
    features = _features(spec, image_size)
    weights = convolutions + features * max(spec.hidden, 1)
    _check_weights(weights, "[model] widths, pooling and hidden, [data] image_size")
    layers: list[nn.Module] = []
    for before, after in pairwise((channels, *spec.widths)):
        layers += [nn.Conv2d(before, after, kernel_size=3, padding=1)]
        if spec.norm == "group":
            layers += [_group_norm(spec.groups, after)]
        layers += [_ACTIVATIONS[spec.activation](), nn.MaxPool2d(kernel_size=2)]
    if spec.pooling == "average":
        layers += [nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten()]
    if spec.hidden:
        layers += [nn.Linear(features, spec.hidden), _ACTIVATIONS[spec.activation]()]
    return nn.Sequential(*layers, nn.Linear(spec.hidden or features, classes))


def _features(spec: ModelSpec, image_size: tuple[int, int]) -> int:
    if spec.pooling == "average":
        return spec.widths[-1]
    height, width = (side >> len(spec.widths) for side in image_size)
    return spec.widths[-1] * max(height * width, 1)


def _check_weights(weights: int, where: str) -> None:
    """Refuse a model too large to be built, before it is."""
    if weights > MOST_WEIGHTS:
        raise ModelError(
            "the model has too many weights",
            where=where,
            found=f"{weights} weights",
            wanted=f"at most {MOST_WEIGHTS}",
            remedy="use a smaller image_size, or for cnn smaller widths, a smaller hidden "
            'layer or pooling = "average"',
        )


def _group_norm(groups: int | None, channels: int) -> nn.GroupNorm:
    """Left out, the number of groups fits the channels; one that was asked for has to."""
    groups = gcd(GROUPS, channels) if groups is None else groups
    if channels % groups:
        raise ModelError(
            "the channels cannot be split into groups",
            where="[model] widths and groups",
            found=f"{channels} channels, {groups} groups",
            wanted="widths that are multiples of groups",
        )
    return nn.GroupNorm(groups, channels)


def _monai(spec: ModelSpec, channels: int, classes: int) -> nn.Module:
    # Two seconds, which a coordinator that starts a study of another model does not spend.
    from monai.networks.nets import DenseNet121, resnet18

    norm = ("group", {"num_groups": spec.groups or GROUPS})
    if spec.name == "resnet18":
        model: nn.Module = resnet18(
            spatial_dims=2, n_input_channels=channels, num_classes=classes, norm=norm
        )
    else:
        model = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=classes, norm=norm)
    _normalise_by_group(model, spec.groups)
    return model


def _normalise_by_group(model: nn.Module, groups: int | None) -> None:
    """Put group normalisation where MONAI's resnet18 leaves batch: ``norm`` reaches one layer."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _group_norm(groups, child.num_features))


def _check_image_size(
    model: nn.Module, name: str, channels: int, image_size: tuple[int, int]
) -> None:
    if _accepts(model, channels, image_size):
        return
    sizes = [2**power for power in range(2, 10)]
    fits = next((side for side in sizes if _accepts(model, channels, (side, side))), None)
    raise _too_small(name, image_size, fits)


def _too_small(name: str, image_size: tuple[int, int], fits: int | None) -> ModelError:
    return ModelError(
        "the model cannot take images of this size",
        where=f"[data] image_size, [model] {name}",
        found="x".join(str(side) for side in image_size),
        wanted=f"{fits}x{fits} or larger" if fits else "a size that is large enough to pool",
        remedy="increase image_size, or use fewer widths or scales",
    )


def _accepts(model: nn.Module, channels: int, image_size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            model(torch.zeros(1, channels, *image_size, device="meta"))
    except (RuntimeError, ValueError):
        return False
    return True
