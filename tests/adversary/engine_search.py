"""What an adversary may choose of a step's arithmetic: weights, inputs, shapes, types, clip norms.

Each seed is one choice, the tasks of the list in turn, with settings at the ends of what a study
may say and with whatever targets a patient may have. The weights are of the kinds that broke
clipping before: vanishing, huge, cancelling on purpose, all zero but for one; and of any size that
float32 has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.data.cohort import Patient
from client.engine.alone import is_alone
from client.engine.clipped import Loss, Patients, place
from client.training.evaluation import counted, outputs_of
from client.training.gradients import summed_loss
from client.training.targets import TARGETS
from common.models.blocks import Residual
from common.models.networks import build_model, flatten
from common.models.parts import adapt, freeze, project, trained_parameters
from common.numerics import EngineChoice
from common.study.study_file import Method, Study
from common.tasks.task import Task
from common.tasks.tasks import KINDS
from tests.common.studies import settings_of, study_of, task_of

TILES: Final = (1, 4, 8)


@dataclass(frozen=True)
class Attack:
    """One choice of the adversary's.

    Attributes:
        model: with weights of the adversary's, placed as the choice has it.
        loss: with class weights of the adversary's.
        patients: two tiles and two more, of whom the last is the one in question.
        clip_norm: at which it is tried.
        choice: tile, kernels and layout.
    """

    model: nn.Module
    loss: Loss
    patients: Patients
    clip_norm: float
    choice: EngineChoice


@cache
def attack(seed: int) -> Attack:
    """The choice that a seed stands for."""
    draw = torch.Generator().manual_seed(seed)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=draw))

    def power(low: float, high: float) -> float:
        return float(10 ** (low + (high - low) * torch.rand((), generator=draw)))

    layout = ("contiguous", "channels_last")[pick(2)]
    kernel = ("", "ghost", "patches", "looped", "materialised")[pick(5)]
    kind = KINDS[seed % len(KINDS)]
    task = task_of(kind, **settings_of(kind, Random(seed)))
    model, side = (_dense if task.heads().dense else _model)(pick(4), task.heads().outputs)
    model, method = _in_part(model, task, seed // len(KINDS))
    names = [name for name, module in model.named_modules() if isinstance(module, _LAYERS)]
    fitting = {name: kernel for name in names if kernel in _kernels(model.get_submodule(name))}
    choice = EngineChoice.model_validate(
        {"tile": TILES[pick(len(TILES))], "memory_format": layout, "kernels": fitting}
    )
    _choose_weights(model, pick(5), draw, power(-25, 18))
    count, items = 2 * choice.tile + 2, 1 + pick(2)
    inputs = torch.rand(count, items, 1, side, side, generator=draw) * 4 - 2
    inputs *= (1.0, 1.0, power(-6, 6))[pick(3)]
    if items == 2 and pick(2):
        inputs[:, 1] = -inputs[:, 0]  # images of one patient that cancel
    size = (1.0, power(-25, 18))[pick(2)]
    loss = _scaled(summed_loss(task, method), size)
    patients = Patients(inputs, targets_of(task, count, items, side, draw))
    if not is_alone(place(model, choice), patients[slice(0, 3)], loss, choice):
        choice = choice.model_copy(update={"tile": 1})  # as a site has it
    clip_norm = (1.0, power(-3, 3), power(-38, 36))[pick(3)]
    return Attack(model, loss, patients, clip_norm, choice)


def _in_part(model: nn.Module, task: Task, number: int) -> tuple[nn.Module, Method]:
    """Every third model with adapters on frozen layers, every third of one release."""
    if number % 3 == 1 and len(trained_parameters(model)) > 2:  # one layer is its own head
        return freeze(adapt(model, 2, ("head",)), ("head",)), "rounds"
    if number % 3 == 2 and task.sums:
        return freeze(project(model, 5), ("head",)), "one-shot"
    return model, "rounds"


_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def _kernels(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.Linear):
        return "ghost", "materialised"
    return "ghost", "patches", "looped"


def _scaled(loss: Loss, size: float) -> Loss:
    return lambda outputs, targets: size * loss(outputs, targets)


def targets_of(
    task: Task, patients: int, items: int, side: int, draw: torch.Generator
) -> torch.Tensor:
    """Targets as a patient may have them: all alike, strange, or one pixel of a class."""
    sound = TARGETS[task.target].made_up(task, patients, items, (side, side))
    return _CHOSEN[task.target](sound, draw)


def _labels(sound: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return (sound, torch.zeros_like(sound))[_pick(2, draw)]


def _values(sound: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    strange = sound.clone()
    strange[::2] = (0.0, -1e38, float("inf"), float("nan"))[_pick(4, draw)]
    return (sound, sound * 10.0 ** _pick(30, draw), strange)[_pick(3, draw)]


def _masks(sound: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    empty, most = torch.zeros_like(sound), int(sound.max())
    pixel = empty.clone()
    pixel[..., 0, -1] = most
    drawn = torch.randint(0, most + 1, sound.shape, generator=draw)
    strange = torch.where(drawn == most, (255, -1, 2**62)[_pick(3, draw)], drawn)
    return (sound, empty, empty + most, pixel, drawn, strange)[_pick(6, draw)]


_CHOSEN: Final[dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]]] = {
    "label": _labels,
    "value": _values,
    "mask": _masks,
}


def _pick(count: int, draw: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draw))


def _model(which: int, outputs: int) -> tuple[nn.Module, int]:
    """A model with numbers for an image, and the image's side."""
    if which == 0:  # features and a width that no vector of the processor divides
        return nn.Sequential(nn.Flatten(), nn.Linear(49, 7), nn.Tanh(), nn.Linear(7, outputs)), 7
    if which == 1:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs)), 8
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    if which == 2:
        layers = [convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(2 * 16, 16), nn.ReLU(), nn.Linear(16, outputs)), 8
    layers = [convolution, nn.GroupNorm(1, 2), nn.ELU(), nn.Conv2d(2, 4, 3, stride=2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 9, outputs)), 8


def _dense(which: int, outputs: int) -> tuple[nn.Module, int]:
    """A model with numbers for each pixel, and the image's side."""
    if which == 0:  # as many pixels as no vector of the processor divides
        return nn.Conv2d(1, outputs, 1), 7
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    if which == 1:
        return nn.Sequential(convolution, nn.ReLU(), nn.Conv2d(2, outputs, 1)), 8
    halved = nn.Conv2d(2, 2, 3, stride=2, padding=1)
    if which == 2:
        below = Residual(nn.InstanceNorm2d(2, affine=True), halved, nn.Upsample(scale_factor=2))
        return nn.Sequential(convolution, below, nn.ELU(), nn.Conv2d(2, outputs, 1)), 8
    larger = nn.ConvTranspose2d(2, outputs, 2, stride=2)
    return nn.Sequential(convolution, nn.GroupNorm(1, 2), nn.ReLU(), halved, larger), 8


@dataclass(frozen=True)
class Evaluation:
    """One choice of the adversary's for an evaluation.

    Attributes:
        study: its task and bins.
        weights: on the edge between two votes, or so large that outputs are no numbers.
        images: of all patients.
        masks: of all images, where they are the targets.
        cohort: whose images lie in several tiles.
    """

    study: Study
    weights: npt.NDArray[np.float32]
    images: npt.NDArray[np.float16]
    masks: npt.NDArray[np.uint8] | None
    cohort: tuple[Patient, ...]

    def counted(self, some: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """What some patients of the cohort mark."""
        return counted(self.study, self.weights, self.images, self._of(some), **self._how)

    @property
    def are_numbers(self) -> list[bool]:
        """Whether each patient's outputs are finite."""
        each = outputs_of(self.study, self.weights, self.images, self.cohort, **self._how)
        return [bool(torch.isfinite(found).all()) for found, _ in each]

    def marks(self, some: tuple[int, ...]) -> list[list[list[int]]]:
        """The cells of each of them."""
        task, bins = self.study.task, self.study.evaluation.bins
        each = outputs_of(self.study, self.weights, self.images, self._of(some), **self._how)
        return [task.marks(*one, bins).tolist() for one in each]

    def _of(self, some: tuple[int, ...]) -> tuple[Patient, ...]:
        return tuple(self.cohort[at] for at in some)

    @property
    def _how(self) -> dict[str, Any]:
        return {"choice": EngineChoice(tile=4), "masks": self.masks}


def evaluation(seed: int) -> Evaluation:
    """The choice that a seed stands for."""
    draw = torch.Generator().manual_seed(seed)
    kind, bins = KINDS[seed % len(KINDS)], (2, 10, 200)[_pick(3, draw)]
    study = study_of(
        kind,
        task=settings_of(kind, Random(seed)),
        evaluation={"bins": bins, "images_per_patient": 2},
        **({} if task_of(kind).heads().dense else {"model": {"widths": [2], "hidden": 7}}),
    )
    cohort, rows = [], 0
    drawn = targets_of(study.task, 10, 3, study.data.image_size[0], draw)
    for at in range(10):
        mine = tuple(range(rows, rows + 1 + at % 3))
        label: Any = drawn[at].item() if drawn.dim() == 1 else 0
        cohort.append(Patient(f"{at:064x}", label, mine, f"{at:064x}"))
        rows += len(mine)
    masks = None
    if study.task.target == "mask":
        masks = drawn.flatten(0, 1)[:rows].numpy().astype(np.uint8)
    images = torch.rand(rows, 1, *study.data.image_size, generator=draw)
    images *= 10.0 ** torch.randint(-4, 5, (rows, 1, 1, 1), generator=draw)
    tried = Evaluation(study, _edge(study, 1e3, seed), images.half().numpy(), masks, tuple(cohort))
    if seed // len(KINDS) % 2:
        return tried
    for power in range(6, 60):  # until the outputs of some are no numbers, and of others are
        tried = replace(tried, weights=_edge(study, 10.0 ** (power / 2), seed))
        if not all(tried.are_numbers):
            break
    return tried


@torch.no_grad()
def _edge(study: Study, size: float, seed: int) -> npt.NDArray[np.float32]:
    model, draw = build_model(study), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw) * size)
    for parameter in model.parameters():
        rows = parameter.flatten(1) if parameter.dim() >= 2 else parameter[None]
        if parameter.dim() >= 2 and rows.shape[1] % 2 == 0:
            half = rows.shape[1] // 2
            rows[:, half:] = -rows[:, :half]
            break
    return flatten(model)


@torch.no_grad()
def _choose_weights(model: nn.Module, how: int, draw: torch.Generator, size: float) -> None:
    parameters = list(model.parameters())
    for parameter in parameters:
        shape = parameter.shape
        parameter.copy_(torch.randn(shape, generator=draw) * (size if how < 2 else 1.0))
    if how == 1:  # sizes of each number by itself
        for parameter in parameters:
            powers = torch.rand(parameter.shape, generator=draw) * 60 - 40
            parameter.mul_(10 ** powers.clamp(max=18))
    if how == 2:  # a last bias alone: every image leads to the same, tiny or no gradient
        for parameter in parameters:
            parameter.zero_()
        parameters[-1][-1] = 54.0
    if how == 3:  # halves that cancel: the last bit of what is left is all there is
        for parameter in parameters:
            if parameter.dim() >= 2 and parameter[0].numel() % 2 == 0:
                rows = parameter.flatten(1)
                half = rows.shape[1] // 2
                rows[:, :half] *= 1e6
                rows[:, half:] = -rows[:, :half]
                parameter.copy_(rows.view_as(parameter))
    if how == 4 and parameters[0].dim() == 4:  # two channels that are one, weighed with two signs
        parameters[0].zero_()
        height, width = parameters[0].shape[2:]
        parameters[0][:, 0, height // 2, width // 2] = 1.0
        weights = [each for each in parameters[1:] if each.dim() >= 2]
        if weights:
            last = next((each for each in weights if each.dim() == 2), weights[0]).flatten(1)
            half = last.shape[1] // 2
            last[:, :half] = torch.randn(last[:, :half].shape, generator=draw) * 1e6
            last[:, half : 2 * half] = -last[:, :half]
