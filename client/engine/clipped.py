"""The sum over patients of each patient's clipped gradient: one pass, a tile at a time.

*Sensitivity.* A patient's items (images, augmented copies) enter the loss as their mean, all
kernels add a patient's items before the norm is taken, and the norm is one over all of the
model's parameters. So adding or removing a patient changes the sum by at most the clip norm,
however many images there are of the patient and however often each is augmented.

*Alone.* Libraries round a row of a product differently when there are fewer rows beside it, and
depending on its address in memory. So a pass always works on a *tile*: the same number of patients
each time, in one array with the library's own alignment, and unused places filled with zeros. A
patient's gradient then has the same bits at every place and beside any others.
:mod:`client.engine.probe` checks that this is true on the running machine.

*Exactly enough.* The bits that a gradient is made of are the patient's vector. Norms, factors and
sums are float64, so nothing underflows or overflows, and the sum differs from the sum of the
vectors by at most ``2^-53 K kappa C`` for each patient, where K terms are added in a tile.
``docs/privacy.md`` proves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from client.engine.rule import Book, Layer, Weighing
from client.engine.sheet import Sheet
from client.engine.tape import Enter, Tape, checkpointed, watched
from common.devices.device import Precision, order_of
from common.devices.devices import DEVICES
from common.models.parts import trained_parameters
from common.numerics import EngineChoice
from common.process.denormals import flushed

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From outputs (items, ...) and targets (items, ...) to the items' losses, summed."""

PLAIN: Final = EngineChoice()
"""Float32, and nothing else chosen."""
KAPPA: Final = 2.0**8
"""How many clip norms a patient's products may have in absolute value, before they cancel.

Gradients of real images have far less, about the root of a layer's positions. A patient with more,
which a coordinator can cause by weights that cancel, is scaled down further: rounding errors grow
with the products, not with their small sum.
"""


@dataclass(frozen=True)
class Patients:
    """What some patients give to a step.

    Attributes:
        inputs: (patients, items, ...), the same number of items for each.
        targets: (patients,), one number for all items of a patient, or (patients, items, ...).
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    @property
    def each_target(self) -> torch.Tensor:
        """The targets of all items in a row, (patients x items, ...)."""
        if self.targets.dim() == 1:
            return self.targets.repeat_interleave(self.inputs.shape[1], dim=0)
        return self.targets.flatten(0, 1)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: slice | torch.Tensor) -> Patients:
        return Patients(self.inputs[chosen], self.targets[chosen])


class Tile:
    """The places that a pass works on: as many each time, at the same address.

    Args:
        like: patients of the shape and type of those to come.
        places: how many there are.
        choice: how images lie in memory.

    Attributes:
        patients: all places; those that hold nobody are zero.
        taken: bool (places,), which places hold somebody.
    """

    def __init__(self, like: Patients, places: int, choice: EngineChoice) -> None:
        items = like.inputs.shape[1]
        inputs = like.inputs.new_zeros(places * items, *like.inputs.shape[2:])
        if like.inputs.dim() == _PLANE:
            inputs = inputs.contiguous(memory_format=order_of(choice.memory_format))
        targets = like.targets.new_zeros(places, *like.targets.shape[1:])
        self.patients = Patients(inputs.unflatten(0, (places, items)), targets)
        self.taken = torch.zeros(places, dtype=torch.bool, device=inputs.device)

    def hold(self, patients: Patients, first: int = 0) -> Tile:
        """Hold these patients, from a place on, and no others."""
        places = slice(first, first + len(patients))
        for array, given in (
            (self.patients.inputs, patients.inputs),
            (self.patients.targets, patients.targets),
        ):
            array.zero_()  # what the last patients left must not reach a place that stays empty
            array[places].copy_(given)
        self.taken.zero_()
        self.taken[places] = True
        return self


class ClippedSum:
    """The sum over patients of each one's mean gradient, scaled down to a clip norm.

    A patient whose gradient is not finite counts as zero.

    Args:
        model: maps (items, ...) to outputs; its parameters are read, and nothing is changed.
            It is fastest where :func:`place` has laid it out.
        loss: sums over items; nothing in it may depend on more than one.
        clip_norm: C; infinite for no clipping.
        choice: tile, layout and kernels; every choice gives the same sum but for rounding.
        enter: makes the books instead of the kernels chosen.

    Attributes:
        total: float64, flat, of what is trained, in the order of ``model.named_parameters``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        clip_norm: float,
        choice: EngineChoice,
        *,
        enter: Enter | None = None,
    ) -> None:
        self.total = flat_zeros(model)
        self._model, self._loss, self._clip_norm = model, loss, clip_norm
        self._choice, self._enter = choice, enter or by_choice(choice)
        self._tile: Tile | None = None

    def start(self) -> None:
        """Begin another sum, in the memory of the last."""
        self.total.zero_()

    @flushed()
    def add(self, patients: Patients) -> None:
        """Add some patients' clipped gradients to the total.

        Raises:
            ModelError: names a module that cannot be trained privately.
        """
        places = self._choice.tile
        if self._tile is None:
            self._tile = Tile(patients, places, self._choice)
        with torch.no_grad():
            for first in range(0, len(patients), places):
                self._add(self._tile.hold(patients[slice(first, first + places)]))

    def _add(self, tile: Tile) -> None:
        books = backward(self._model, tile.patients, self._loss, self._enter, self._choice)
        sheet = Sheet(books, len(tile.patients), self.total.device)
        del books  # else its small gradients would be held twice, here and on the sheet
        add_flat(self.total, self._model, sheet, weighing(sheet, tile.taken, self._clip_norm))


def clipped_sum(
    model: nn.Module,
    patients: Patients,
    loss: Loss,
    clip_norm: float,
    choice: EngineChoice,
    *,
    enter: Enter | None = None,
) -> torch.Tensor:
    """The sum over some patients, who may be none; as :class:`ClippedSum` has it."""
    summed = ClippedSum(model, loss, clip_norm, choice, enter=enter)
    summed.add(patients)
    return summed.total


def weighing(sheet: Sheet, taken: torch.Tensor, clip_norm: float) -> Weighing:
    """Who counts, and for how much: C over the largest of C, the norm, and gross / kappa.

    Factors are float64: where one is not 1 it lies above 1e-155, far from where it would lose
    digits, so that rounding lengthens no vector by more than one part in 2^53.

    Args:
        sheet: of one pass.
        taken: bool (patients,), which places hold somebody.
        clip_norm: C; infinite for no clipping.
    """
    # min(1, C / |g|) of Abadi et al. 2016, with the length also bounded from below by the size of
    # the products: a sum of huge terms that cancel is rounded by far more than its own norm.
    length = torch.maximum(sheet.squared.sqrt(), sheet.gross / KAPPA)
    # One patient's overflow must not make the sum NaN, nor stop a round that others are in.
    counted = taken & torch.isfinite(length)
    if math.isinf(clip_norm):
        return Weighing(counted.double(), counted)
    longest = length.clamp(min=clip_norm)
    return Weighing(torch.where(counted, clip_norm / longest, 0.0), counted)


def place(model: nn.Module, choice: EngineChoice) -> nn.Module:
    """The same model, on the device and in memory as the choice has it; no shape changes."""
    return DEVICES[choice.device].place(model, choice.memory_format)


_PLANE: Final = 5  # patients, images, channels, height, width


def by_choice(choice: EngineChoice) -> Enter:
    """Books by the kernels chosen; where none is, by the modelled one."""

    def enter(layer: Layer, records: list[object], patients: int) -> Book:
        chosen = choice.kernels.get(layer.name)
        kernel = chosen if chosen in layer.rule.kernels else None
        kernel = kernel or layer.rule.modelled(layer, records, patients)
        return layer.rule.book(layer, records, patients, kernel)

    return enter


@flushed()
def backward(
    model: nn.Module,
    patients: Patients,
    loss: Loss,
    enter: Enter,
    choice: EngineChoice = PLAIN,
) -> dict[Layer, Book]:
    """One forward and backward pass over some patients: a book for each layer.

    Args:
        model: of which gradients are wanted.
        patients: a tile of them.
        loss: sums over items.
        enter: makes the books.
        choice: precision, and whether activations are checkpointed; the rest is the caller's.
    """
    precision = choice.precision
    items = patients.inputs.shape[1]
    images = patients.inputs.flatten(0, 1)
    tape = Tape(len(patients), len(images), enter, images.device, precision)
    less = checkpointed(model, tape) if choice.checkpointing else nullcontext()
    with watched(model, tape), less, torch.enable_grad():
        outputs = model(images)
        if precision == "bfloat16":
            outputs = outputs.float()  # a loss of 8 bits would be the same for many outputs
        # Divided by the items before the clip: one patient has one vector, however many images.
        total = loss(outputs, patients.each_target) / items
        if total.requires_grad:
            total.backward()
    tape.close()
    return tape.books


@torch.no_grad()
@flushed()
def outputs(
    model: nn.Module, images: torch.Tensor, precision: Precision = "float32"
) -> torch.Tensor:
    """A model's outputs for a tile of items, computed as in training, so alone to the last bit."""

    # Watched although no gradient is wanted: the rules pad rows and take curved activations
    # patient by patient, which the modules' own forward does not.
    def nothing(*_: object) -> Book:
        return Book()

    with watched(model, Tape(len(images), len(images), nothing, images.device, precision)):
        found: torch.Tensor = model(images)
    return found.float() if precision == "bfloat16" else found


def plain_sum(model: nn.Module, patients: Patients, loss: Loss) -> torch.Tensor:
    """The sum of the patients' mean gradients, unclipped, by autograd: flat."""
    items = patients.inputs.shape[1]
    outputs = model(patients.inputs.flatten(0, 1))
    total = loss(outputs, patients.each_target) / items
    gradients = torch.autograd.grad(
        total, trained_parameters(model), allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def flat_zeros(model: nn.Module) -> torch.Tensor:
    """A total of nothing, float64."""
    parameters = trained_parameters(model)
    size = sum(parameter.numel() for parameter in parameters)
    return torch.zeros(size, dtype=torch.float64, device=parameters[0].device)


def add_flat(total: torch.Tensor, model: nn.Module, sheet: Sheet, weighing: Weighing) -> None:
    """Add each patient's gradient times a factor to a flat total; the sheet is used up."""
    totals, start = {}, 0
    for parameter in trained_parameters(model):
        stop = start + parameter.numel()
        totals[id(parameter)] = total[start:stop].view(parameter.shape)
        start = stop
    sheet.add(totals, weighing)
