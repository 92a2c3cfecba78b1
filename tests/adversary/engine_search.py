"""What an adversary may choose of a step's arithmetic: weights, inputs, shapes, types, clip norms.

Each seed is one choice. The weights are of the kinds that broke clipping before: vanishing,
huge, cancelling on purpose, all zero but for one; and of any size that float32 has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from client.engine.alone import is_alone
from client.engine.clipped import Loss, Patients, place
from client.training.gradients import summed_loss
from common.numerics import EngineChoice
from tests.common.studies import classification

TILES: Final = (1, 4, 8)
LABELS: Final = 2


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


def attack(seed: int) -> Attack:
    """The choice that a seed stands for."""
    draw = torch.Generator().manual_seed(seed)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=draw))

    def power(low: float, high: float) -> float:
        return float(10 ** (low + (high - low) * torch.rand((), generator=draw)))

    layout = ("contiguous", "channels_last")[pick(2)]
    kernel = ("", "ghost", "patches", "looped", "materialised")[pick(5)]
    model, side = _model(pick(4))
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
    loss = summed_loss(classification((size, size * power(-2, 2))))
    patients = Patients(inputs, torch.arange(count) % LABELS)
    if not is_alone(place(model, choice), patients[slice(0, 3)], loss, choice):
        choice = choice.model_copy(update={"tile": 1})  # as a site has it
    clip_norm = (1.0, power(-3, 3), power(-38, 36))[pick(3)]
    return Attack(model, loss, patients, clip_norm, choice)


_LAYERS = (nn.Conv2d, nn.Linear)


def _kernels(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.Conv2d):
        return "ghost", "patches", "looped"
    return "ghost", "materialised"


def _model(which: int) -> tuple[nn.Module, int]:
    if which == 0:  # features and a width that no vector of the processor divides
        return nn.Sequential(nn.Flatten(), nn.Linear(49, 7), nn.Tanh(), nn.Linear(7, LABELS)), 7
    if which == 1:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, LABELS)), 8
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    if which == 2:
        layers = [convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(2 * 16, 16), nn.ReLU(), nn.Linear(16, LABELS)), 8
    layers = [convolution, nn.GroupNorm(1, 2), nn.ELU(), nn.Conv2d(2, 4, 3, stride=2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 9, LABELS)), 8


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
        parameters[0][:, 0, 1, 1] = 1.0
        last = next(each for each in parameters[1:] if each.dim() == 2)
        half = last.shape[1] // 2
        last[:, :half] = torch.randn(last[:, :half].shape, generator=draw) * 1e6
        last[:, half : 2 * half] = -last[:, :half]
