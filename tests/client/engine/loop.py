"""What the engine is held to: a loop over patients with plain autograd, clipped one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from client.engine.clipped import Patients, backward, clipped_sum, place
from client.engine.rule import Book, Layer
from common.numerics import EngineChoice

Layout = Literal["contiguous", "channels_last"]
LAYOUTS: Final[tuple[Layout, ...]] = ("contiguous", "channels_last")
SAME = 1e-10
"""Distance of two float64 sums, by the sum's norm, up to which they are one."""
CHANNELS = 4


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over everything that an item's output holds, summed over items."""
    return functional.cross_entropy(outputs.flatten(1), targets, reduction="sum")


def patients_of(
    *shape: int, count: int = 5, items: int = 1, seed: int = 0, words: int = 0
) -> Patients:
    """Normal float64 inputs (count, items, *shape), or integers below ``words``."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, items, *shape)
    inputs = (
        torch.randint(words, size, generator=generator)
        if words
        else torch.randn(size, generator=generator, dtype=torch.float64)
    )
    return Patients(inputs, torch.arange(count) % 2)


def exact(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A float64 model with random weights, none of them left at zero or one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def gradients_of(model: nn.Module, patients: Patients) -> torch.Tensor:
    """(patients, weights): each patient's mean gradient, by autograd on the patient alone."""
    return torch.stack([_alone(model, patients, at) for at in range(len(patients))])


def _alone(model: nn.Module, patients: Patients, at: int) -> torch.Tensor:
    inputs = patients.inputs[at]
    targets = patients.targets[at].expand(len(inputs))
    found = torch.autograd.grad(
        loss(model(inputs), targets) / len(inputs),
        list(model.parameters()),
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([each.reshape(-1) for each in found])


def clipped_by_hand(gradients: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """The sum of the rows, each scaled down to the clip norm."""
    norms = gradients.norm(dim=1, keepdim=True)
    return (gradients * torch.where(norms > clip_norm, clip_norm / norms, 1.0)).sum(dim=0)


def biting(gradients: torch.Tensor) -> float:
    """A clip norm that some patients' gradients exceed and others do not."""
    norms = gradients.norm(dim=1).sort().values
    middle = len(norms) // 2
    found = float(norms[middle - 1] + norms[middle]) / 2
    assert norms[0] < found < norms[-1]
    return found


def require_same(
    model: nn.Module,
    patients: Patients,
    choice: EngineChoice | None = None,
    *,
    within: float = SAME,
) -> None:
    """The engine's sums are the loop's, with clipping that bites some patients, and without."""
    choice = choice or EngineChoice()
    gradients = gradients_of(model, patients)
    place(model, choice)
    for clip_norm in (math.inf, biting(gradients)):
        found = clipped_sum(model, patients, loss, clip_norm, choice)
        wanted = clipped_by_hand(gradients, clip_norm)
        assert found.dtype == torch.float64
        assert float((found - wanted).norm()) <= within * float(wanted.norm())


def layers_of(model: nn.Module, patients: Patients) -> list[Layer]:
    """The layers that enter a book, in the order of the backward pass."""

    def nothing(*_: object) -> Book:
        return Book()

    return list(backward(model, patients, loss, nothing))


def kernels_named(model: nn.Module, patients: Patients, kernel: str) -> Mapping[str, str]:
    """The kernel for each layer that knows it."""
    found = {
        layer.name: kernel for layer in layers_of(model, patients) if kernel in layer.rule.kernels
    }
    assert found, f"no layer knows {kernel}"
    return found


def forced(
    model: nn.Module,
    patients: Patients,
    kernel: str,
    *,
    memory_format: Layout = "contiguous",
    tile: int = 8,
) -> EngineChoice:
    """The choice of one kernel wherever a layer knows it."""
    return EngineChoice(
        kernels=dict(kernels_named(model, patients, kernel)),
        memory_format=memory_format,
        tile=tile,
    )


class Net(nn.Module):
    """A model of some parts whose forward is a function of the model and its input."""

    def __init__(
        self, compute: Callable[[Any, torch.Tensor], torch.Tensor], **parts: nn.Module
    ) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.compute(self, value)
