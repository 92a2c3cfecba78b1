"""The sum over patients of each patient's clipped gradient: one pass, in micro-batches.

*Sensitivity.* A patient's items (images, augmented copies) enter the loss as their mean, all
kernels add a patient's items before the norm is taken, and the norm is one over all of the
model's parameters. So adding or removing a patient changes the sum by at most the clip norm,
however many images there are of the patient and however often each is augmented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from client.engine.books import Book
from client.engine.rule import Layer
from client.engine.sheet import Sheet
from client.engine.tape import Enter, Tape, watched
from common.numerics import EngineChoice

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From outputs (items, ...) and targets (items, ...) to the items' losses, summed."""

SURE: Final = 1e-4
"""Relative error of a squared norm above which a kernel that loses no digits takes it again."""

FEW: Final = 8
"""Patients whose gradients are all held at once where kernels that lose no digits are needed."""


@dataclass(frozen=True)
class Patients:
    """What some patients give to a step.

    Attributes:
        inputs: (patients, items, ...), the same number of items for each.
        targets: (patients, ...), one for all items of a patient.
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: slice | torch.Tensor) -> Patients:
        return Patients(self.inputs[chosen], self.targets[chosen])


def clipped_sum(
    model: nn.Module,
    patients: Patients,
    loss: Loss,
    clip_norm: float,
    choice: EngineChoice,
    *,
    enter: Enter | None = None,
) -> torch.Tensor:
    """The sum over patients of each one's mean gradient, scaled down to ``clip_norm``.

    A patient whose gradient is not finite counts as zero.

    Args:
        model: maps (items, ...) to outputs; its parameters are read, and nothing is changed.
            It is fastest where :func:`place` has laid it out.
        patients: may be none.
        loss: sums over items; nothing in it may depend on more than one.
        clip_norm: C; infinite for no clipping.
        choice: micro-batch, layout and kernels; every choice gives the same sum but for rounding.
        enter: makes the books instead of the kernels chosen.

    Returns:
        Flat, in the order of ``model.named_parameters`` and of the parameters' dtype, but
        float32 where that is smaller.

    Raises:
        ModelError: names a module that cannot be trained privately.
    """
    step, patients = _Step(model, loss, clip_norm), _placed(patients, choice)
    size = max(1, choice.micro_batch // max(1, patients.inputs.shape[1]))
    total = flat_zeros(model)
    with torch.no_grad():
        for first in range(0, len(patients), size):
            step.add(total, patients[slice(first, first + size)], enter or by_choice(choice))
    return total


def place(model: nn.Module, choice: EngineChoice) -> nn.Module:
    """The same model, its weights in memory as the choice has them; no shape changes."""
    placed: nn.Module = model.to(memory_format=_layout(choice))  # type: ignore[call-overload] # typed for 4-D tensors alone
    return placed


def _placed(patients: Patients, choice: EngineChoice) -> Patients:
    """The same patients, their images of two dimensions in memory as the choice has them."""
    if patients.inputs.dim() != _PLANE:
        return patients
    count = patients.inputs.shape[:2]
    images = patients.inputs.flatten(0, 1).contiguous(memory_format=_layout(choice))
    return Patients(images.unflatten(0, count), patients.targets)


_PLANE: Final = 5  # patients, images, channels, height, width


def _layout(choice: EngineChoice) -> Any:  # noqa: ANN401 - torch.memory_format is not a type
    last = choice.memory_format == "channels_last"
    return torch.channels_last if last else torch.contiguous_format


def by_choice(choice: EngineChoice) -> Enter:
    """Books by the kernels chosen; where none is, by the modelled one."""

    def enter(layer: Layer, records: list[object], patients: int) -> Book:
        chosen = choice.kernels.get(layer.name)
        kernel = chosen if chosen in layer.rule.kernels else None
        kernel = kernel or layer.rule.modelled(layer, records, patients)
        return layer.rule.book(layer, records, patients, kernel)

    return enter


def _exactly(layer: Layer, records: list[object], patients: int) -> Book:
    return layer.rule.book(layer, records, patients, layer.rule.exact)


@dataclass(frozen=True)
class _Step:
    """What all micro-batches of a sum have in common."""

    model: nn.Module
    loss: Loss
    clip_norm: float

    def add(self, total: torch.Tensor, patients: Patients, enter: Enter) -> None:
        """Add some patients' clipped gradients to the total."""
        books = backward(self.model, patients, self.loss, enter)
        sheet = Sheet(books, len(patients), total.device)
        del books
        finite = torch.isfinite(sheet.squared)
        unsure = finite & (sheet.doubt > SURE * sheet.squared)
        unsure &= sheet.squared + sheet.doubt > self.clip_norm**2
        if bool(finite.all()) and not bool(unsure.any()):
            norms = sheet.squared.sqrt()
            factors = torch.where(norms > self.clip_norm, self.clip_norm / norms, 1.0)
            add_flat(total, self.model, sheet, factors)
            return
        del sheet
        self._add_again(total, patients[finite & ~unsure], enter, len(patients))
        self._add_again(total, patients[unsure], _exactly, FEW)

    def _add_again(
        self, total: torch.Tensor, patients: Patients, enter: Enter, at_once: int
    ) -> None:
        for first in range(0, len(patients), at_once):
            self.add(total, patients[slice(first, first + at_once)], enter)


def backward(model: nn.Module, patients: Patients, loss: Loss, enter: Enter) -> dict[Layer, Book]:
    """One forward and backward pass over some patients: a book for each layer."""
    items = patients.inputs.shape[1]
    images = patients.inputs.flatten(0, 1)
    tape = Tape(len(patients), len(images), enter, images.device)
    with watched(model, tape), torch.enable_grad():
        outputs = model(images)
        total = loss(outputs, patients.targets.repeat_interleave(items, dim=0)) / items
        if total.requires_grad:
            total.backward()
    tape.close()
    return tape.books


def plain_sum(model: nn.Module, patients: Patients, loss: Loss) -> torch.Tensor:
    """The sum of the patients' mean gradients, unclipped, by autograd: flat."""
    items = patients.inputs.shape[1]
    outputs = model(patients.inputs.flatten(0, 1))
    total = loss(outputs, patients.targets.repeat_interleave(items, dim=0)) / items
    gradients = torch.autograd.grad(
        total, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def flat_zeros(model: nn.Module) -> torch.Tensor:
    """A total of nothing, as :func:`clipped_sum` gives it."""
    first = next(model.parameters())
    size = sum(parameter.numel() for parameter in model.parameters())
    return torch.zeros(size, dtype=_kept_in(first.dtype), device=first.device)


def _kept_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def add_flat(total: torch.Tensor, model: nn.Module, sheet: Sheet, factors: torch.Tensor) -> None:
    """Add each patient's gradient times a factor to a flat total; the sheet is used up."""
    places, start = {}, 0
    for parameter in model.parameters():
        places[id(parameter)] = slice(start, start + parameter.numel())
        start += parameter.numel()
    for key, value in sheet.sums(factors):
        total[places[key]].view(value.shape).add_(value)
