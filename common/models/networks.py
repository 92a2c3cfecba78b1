"""The shared models, none of which lets one patient's image touch another's.

Batch normalisation mixes the patients of a batch, so that no gradient belongs to one
patient and no clip bounds what a patient changes (Yousefpour et al. 2021, section 2): a
model that has it is refused. Weights travel as one flat float32 array in the order of
``Module.named_parameters``; a model with other state is refused too, since it would not
travel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.errors import ModelError
from common.models.initial import Arrays
from common.models.models import MODELS
from common.models.parts import adapt, freeze, project, trained_parameters
from common.models.spec import ModelSpec, Shape, too_small
from common.process import denormals  # noqa: F401 - before anything is computed
from common.tasks.task import Heads

MOST_WEIGHTS: Final = 2**27
"""Weights of the largest model: 512 MiB on the wire. A study that was received may ask for more."""
Flat = npt.NDArray[np.float32]
"""Weights in a row, in the order of ``Module.named_parameters``."""
_BATCH_NORMS: Final = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)  # noqa: SLF001 - no public base class


class Described(Protocol):
    """What of a study decides its network; :class:`common.study.study_file.Study` has it."""

    @property
    def model(self) -> ModelSpec:
        """The settings."""
        ...

    @property
    def shape(self) -> Shape:
        """What goes in."""
        ...

    @property
    def heads(self) -> Heads:
        """What comes out."""
        ...

    def __hash__(self) -> int:
        """It is frozen."""
        ...


def build_model(study: Described) -> nn.Module:
    """The study's network, in training mode, its weights not yet meaningful.

    It maps float32 (items, channels, height, width) to (items, outputs) or, dense, to
    (items, outputs, height, width). Nothing is built before its shapes are known to fit together.

    Raises:
        ModelError: the image size does not fit, the model is too large, cannot be trained
            privately, or does not put out what the task needs.
    """
    weights_count(study)
    return _built(study)


def sketch(study: Described) -> nn.Module:
    """The study's network without numbers, on torch's ``meta`` device: shapes alone.

    It takes no memory and computes nothing, whatever the study asks for.

    Raises:
        ModelError: as :func:`build_model`.
    """
    with torch.device("meta"):
        model = _built(study)
    _check_weights(model, study.model.name)
    _check_image_size(model, study.model.name, study.shape)
    return model


def _built(study: Described, initial: Arrays | None = None) -> nn.Module:
    spec, heads = study.model, study.heads
    if spec.dense != heads.dense:
        raise _of_another_kind(spec, heads)
    model = spec.build(study.shape, heads)
    if spec.projection:
        model = project(model, spec.projection)
    # Before the adapters: a file names the layers as the network itself has them.
    if initial is not None:
        load_named(model, initial)
    if spec.adapters:
        model = adapt(model, spec.adapters, spec.trainable)
    check_private(model)
    return freeze(model, spec.trainable)


def _of_another_kind(spec: ModelSpec, heads: Heads) -> ModelError:
    gives, needs = (
        "numbers for each pixel" if dense else "numbers for a whole image"
        for dense in (spec.dense, heads.dense)
    )
    fit = [each.model_fields["name"].default for each in MODELS if each.dense == heads.dense]
    return ModelError(
        f"the model gives {gives}, and the task needs {needs}",
        where="[model] name, [task] kind",
        found=spec.name,
        wanted=f"one of {', '.join(fit)}",
        remedy="choose another model, or another task",
    )


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


def load_named(model: nn.Module, arrays: Arrays) -> None:
    """Put public starting weights into the parameters that they name; the others stay.

    Raises:
        ModelError: an array fits no parameter of the model.
    """
    own = dict(model.named_parameters())
    for name, each in arrays.items():
        there = tuple(own[name].shape) if name in own else None
        if there != each.shape:
            raise ModelError(
                "the starting weights do not fit the model",
                where=f"[model] initial, array {name}",
                found=f"shape {tuple(each.shape)}",
                wanted=f"shape {there}" if there else "the name of a weight of the model",
                remedy="make the file for this model: consilium-coordinator weights takes from a "
                "checkpoint what fits",
            )
    with torch.no_grad():
        for name, each in arrays.items():
            own[name].copy_(torch.from_numpy(np.array(each)))


def flatten(model: nn.Module) -> npt.NDArray[np.float32]:
    """All parameters as one flat float32 array."""
    with torch.no_grad():
        return torch.cat([value.reshape(-1) for value in model.parameters()]).numpy().copy()


@lru_cache(maxsize=16)
def weights_count(study: Described) -> int:
    """How many weights the study's model has, of which none is made for it.

    Raises:
        ModelError: as :func:`build_model`.
    """
    return sum(size for size, _ in _layout(study))


def trained_count(study: Described) -> int:
    """How many of them are trained: what is noised, and what travels in a round.

    Raises:
        ModelError: as :func:`build_model`.
    """
    return sum(size for size, trained in _layout(study) if trained)


@lru_cache(maxsize=16)
def _layout(study: Described) -> tuple[tuple[int, bool], ...]:
    """Of each parameter in turn, how many numbers it has and whether it is trained."""
    return tuple((each.numel(), each.requires_grad) for each in sketch(study).parameters())


def split(study: Described, weights: Flat) -> tuple[Flat, Flat]:
    """The trained and the frozen ones of all weights, each in their order.

    Raises:
        ModelError: as :func:`build_model`.
    """
    parts = list(_parts(study, weights))
    return _together(parts, trained=True), _together(parts, trained=False)


def join(study: Described, trained: Flat, frozen: Flat | None) -> Flat:
    """All weights, of the trained and the frozen ones.

    Args:
        study: whose model they are of.
        trained: flat float32.
        frozen: likewise; None or none where all are trained.

    Raises:
        ValueError: there are more or fewer than the model has.
        ModelError: as :func:`build_model`.
    """
    frozen = np.zeros(0, dtype=np.float32) if frozen is None else frozen
    wanted = trained_count(study), weights_count(study) - trained_count(study)
    if (trained.size, frozen.size) != wanted:
        raise ValueError(f"{trained.size} trained and {frozen.size} frozen weights do not fit")
    if not frozen.size:
        return trained
    places = {True: 0, False: 0}
    whole = np.empty(trained.size + frozen.size, dtype=np.float32)
    for part, is_trained in _parts(study, whole):
        start = places[is_trained]
        places[is_trained] = start + part.size
        part[:] = (trained if is_trained else frozen)[start : start + part.size]
    return whole


def _parts(study: Described, weights: Flat) -> Iterator[tuple[Flat, bool]]:
    start = 0
    for size, trained in _layout(study):
        yield weights[start : start + size], trained
        start += size


def _together(parts: list[tuple[Flat, bool]], *, trained: bool) -> Flat:
    found = [part for part, is_trained in parts if is_trained == trained]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


def load_flat(model: nn.Module, weights: npt.NDArray[np.float32] | torch.Tensor) -> None:
    """Put flat float32 weights into the model's parameters.

    Raises:
        ValueError: the array has another length than the model has weights.
    """
    _load(list(model.parameters()), weights)


def load_trained(model: nn.Module, weights: npt.NDArray[np.float32] | torch.Tensor) -> None:
    """The same of the weights that are trained; the frozen ones stay.

    Raises:
        ValueError: as there.
    """
    _load(trained_parameters(model), weights)


def _load(parameters: list[nn.Parameter], weights: npt.NDArray[np.float32] | torch.Tensor) -> None:
    start = 0
    # An array is copied, since it may be read-only; a round's own tensor is read as it is.
    given = weights if isinstance(weights, torch.Tensor) else np.array(weights, dtype=np.float32)
    values = torch.as_tensor(given)
    if values.numel() != sum(value.numel() for value in parameters):
        raise ValueError(f"{values.numel()} weights do not fit the model")
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(values[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()


def initial_weights(
    study: Described, seed: int, initial: Arrays | None = None
) -> npt.NDArray[np.float32]:
    """All flat float32 weights of round zero: torch's own initialisation, from ``seed``.

    Args:
        study: whose model they are of.
        seed: of those that no file has.
        initial: the study's public starting weights.

    Raises:
        ModelError: as :func:`build_model`; or the starting weights do not fit.
    """
    return flatten(seeded_model(study, seed, initial))


def seeded_model(study: Described, seed: int, initial: Arrays | None = None) -> nn.Module:
    """The study's network with the weights of round zero; see :func:`initial_weights`."""
    weights_count(study)
    # Leaves torch's global generator as it was: no other draw may depend on this one.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(study, initial)


def _check_weights(model: nn.Module, name: str) -> None:
    """Refuse a model too large to be built, before it is."""
    weights = sum(value.numel() for value in model.parameters())
    if weights > MOST_WEIGHTS:
        raise ModelError(
            "the model has too many weights",
            where=f"[model] {name}, [data] image_size",
            found=f"{weights} weights",
            wanted=f"at most {MOST_WEIGHTS}",
            remedy="use a smaller image_size or smaller widths, or for cnn a smaller hidden "
            'layer or pooling = "average"',
        )


def _check_image_size(model: nn.Module, name: str, shape: Shape) -> None:
    if _accepts(model, shape):
        return
    sides = [2**power for power in range(2, 10)]
    fits = (side for side in sides if _accepts(model, shape._replace(height=side, width=side)))
    raise too_small(name, shape, next(fits, None))


def _accepts(model: nn.Module, shape: Shape) -> bool:
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape, device="meta"))
    except (RuntimeError, ValueError):
        return False
    return True
