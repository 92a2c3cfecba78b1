"""What the engine checks on random input before a model's first step.

- Each patient's gradient and norm, formed in a batch, equal those that autograd gives for the
  patient alone, for every parameter.
- No patient's output depends on another patient, or on random numbers of the module's own.
- On this machine, in a tile as in training, everything that is computed of a patient has the same
  bits at every place, beside any others and at any address (:mod:`client.engine.alone`).
- On a graphics card, gradients, norms and sums are also held against the processor's in float64.

A model that fails is refused, and the error names the parameter or module at fault.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from client.engine.alone import require_alone
from client.engine.clipped import (
    Loss,
    Patients,
    Tile,
    add_flat,
    backward,
    by_choice,
    flat_zeros,
    place,
    plain_sum,
)
from client.engine.layers import refusing, served
from client.engine.rule import Book, Layer, Weighing
from client.engine.sheet import Sheet
from common.devices.devices import DEVICES
from common.errors import ModelError
from common.numerics import EngineChoice

SAME: Final = 1e-8
"""Relative difference up to which two float64 sums count as equal."""
ROUNDED: Final = 1e-10
"""The same where both are formed of the very same numbers: float64 rounds less, and a less exact
type, or an emulation of it, more."""
COUNTS: Final = (2, 3)
"""Patients in the batches that are tried: no common factor, which a fixed size could have."""


def require_sound(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> None:
    """Refuse a model whose clipped sums would be wrong.

    Args:
        model: a copy of it is tried, in float64.
        example: at least three patients of random input.
        loss: as for :func:`client.engine.clipped.clipped_sum`.
        choice: as there.

    Raises:
        ModelError: names the parameter or module at fault.
    """
    try:
        refusing(model, partial(_try, model, example, loss, choice))
    except torch.OutOfMemoryError:
        raise  # the machine's fault, not the model's
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            "the model cannot be trained privately: it fails on random input",
            where=type(model).__name__,
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="build it from supported layers (docs/engine.md) that do not change their input "
            "in place",
        ) from error


def _try(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> None:
    exact = choice.model_copy(update={"precision": "float32"})  # float64, here
    trial = place(copy.deepcopy(model).double(), exact)
    patients = Patients(_unlike(example.inputs), example.targets)
    for _ in served(trial):
        pass  # refuses modules by their kind, with a clearer error than the trials below
    _require_no_chance(trial, patients)
    _require_apart(trial, patients)
    # In a batch each patient's own gradient is compared, not only the total: a layer that gave one
    # patient another's gradient had the right total, and clipped nobody.
    is_apart = DEVICES[choice.device].is_apart
    reference = copy.deepcopy(trial).cpu() if is_apart else trial
    for count in COUNTS:
        _require_each(trial, reference, patients[slice(0, count)], loss, exact)
    # In the model's own type: libraries order the sums of float32 and float64 differently.
    placed = place(copy.deepcopy(model), choice)
    if is_apart:
        require_sums(placed, example, loss, choice)
    require_alone(placed, example, loss, choice)


@torch.no_grad()
def require_sums(model: nn.Module, patients: Patients, loss: Loss, choice: EngineChoice) -> None:
    """Refuse a device whose norms and sums are not the processor's, of the very same numbers.

    All that follows on the numbers that a gradient is made of is float64, on any device: how exact
    that is, ``docs/privacy.md`` builds on. Libraries choose kernels by size, so a full tile is
    tried, as training has it.

    Args:
        model: placed as the choice has it.
        patients: random input, on the device; repeated until they fill a tile.
        loss: as for :func:`require_sound`.
        choice: as there.

    Raises:
        ModelError: names the device.
    """
    device, places = patients.inputs.device, choice.tile
    make, beside = by_choice(choice), copy.deepcopy(model).cpu()
    pairs = zip(model.parameters(), beside.parameters(), strict=True)
    twins = {id(there): here for there, here in pairs}
    wanted = {id(each): torch.zeros(each.shape, dtype=torch.float64) for each in twins.values()}
    # Given, not clipped by: the processor's sums are made, and let go, layer by layer.
    everyone = torch.ones(places, dtype=torch.bool)
    factors = torch.linspace(1 / 3, 1, places, dtype=torch.float64)
    squared, gross = torch.zeros_like(factors), torch.zeros_like(factors)

    def enter(layer: Layer, records: list[Any], count: int) -> Book:
        book = make(layer, records, count)
        mine = {role: twins[id(each)] for role, each in layer.parameters.items()}
        twin = Layer(layer.name, layer.rule, layer.options, mine)
        held = {role: each.cpu() for role, each in book.held.items()}
        factored = {}
        if book.factored:
            here = [tuple(part.cpu() for part in each) for each in records]
            factored = dict(make(twin, here, count).factored)
        sheet = Sheet({twin: Book(held, factored)}, count, torch.device("cpu"))
        squared.add_(sheet.squared)
        gross.add_(sheet.gross.square())
        sheet.add(wanted, Weighing(factors, everyone))
        return book

    at = torch.arange(places, device=device) % len(patients)
    full = Tile(patients, places, choice).hold(patients[at]).patients
    books = backward(model, full, loss, enter, choice)
    there = Sheet(books, places, device)
    apart = (there.squared.cpu() - squared).abs()
    _require_rounded(bool((apart <= ROUNDED * (squared + gross)).all()), "a squared norm", choice)
    total = flat_zeros(model)
    add_flat(total, model, there, Weighing(factors.to(device), everyone.to(device)))
    summed = torch.cat([wanted[id(each)].flatten() for each in beside.parameters()])
    off, length = float((total.cpu() - summed).norm()), torch.maximum(squared, gross).sqrt()
    _require_rounded(off <= ROUNDED * float(factors @ length), "a clipped sum", choice)


def _require_rounded(holds: bool, what: str, choice: EngineChoice) -> None:
    if not holds:
        raise ModelError(
            f"{what} of this machine's device is less exact than float64",
            where=str(DEVICES[choice.device].card() or "the processor"),
            wanted=f"what the processor computes of the same numbers, to {ROUNDED:g}",
            remedy="update the driver and torch, or remove the line gpu in [device] to compute on "
            "the processor",
        )


def _unlike(inputs: torch.Tensor) -> torch.Tensor:
    """Patients of different sizes, so that one cannot pass for another."""
    if not inputs.is_floating_point():
        return inputs
    sizes = torch.linspace(0.5, 2.0, len(inputs), dtype=torch.float64, device=inputs.device)
    return inputs.double() * sizes.view(-1, *[1] * (inputs.dim() - 1))


def _require_each(
    model: nn.Module,
    reference: nn.Module,
    patients: Patients,
    loss: Loss,
    choice: EngineChoice,
) -> None:
    """Each patient's gradient and norm, out of a batch, are autograd's of that patient alone.

    The reference is the same model, on the processor where the model is elsewhere.
    """
    at = next(reference.parameters()).device
    known = Patients(patients.inputs.to(at), patients.targets.to(at))
    for number in range(len(patients)):
        with torch.no_grad():
            books = backward(model, patients, loss, by_choice(choice))
            _require_known(books, choice)
            sheet = Sheet(books, len(patients), patients.inputs.device)
            squared = float(sheet.squared[number])
            ours = flat_zeros(model)
            chosen = torch.arange(len(patients), device=ours.device) == number
            add_flat(ours, model, sheet, Weighing(chosen.double(), chosen))
        theirs = plain_sum(reference, known[slice(number, number + 1)], loss)
        _require_same(model, ours.to(at), theirs)
        norm = float(theirs.norm())
        if not abs(squared - norm**2) <= SAME * max(norm**2, 1.0):
            raise ModelError(
                "a patient's gradient norm is wrong",
                where=f"{type(model).__name__}, a batch of {len(patients)} patients",
                found=f"{math.sqrt(max(squared, 0.0)):.6g}",
                wanted=f"{norm:.6g}, as for this patient alone",
                remedy="keep the batch as the first dimension of every layer's input",
            )


def _require_known(books: Mapping[Layer, Book], choice: EngineChoice) -> None:
    """A choice may name no layer and no kernel that there is not."""
    kernels = {layer.name: layer.rule.kernels for layer in books}
    for name, kernel in choice.kernels.items():
        if kernel not in kernels.get(name, ()):
            raise ModelError(
                "the recorded kernel does not exist for this layer",
                where=f"module {name}",
                found=kernel,
                wanted=", ".join(kernels[name]) if name in kernels else f"one of {list(kernels)}",
            )


def _require_same(model: nn.Module, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    start, scale = 0, float(theirs.norm())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        stop = start + parameter.numel()
        apart = float((ours[start:stop] - theirs[start:stop]).norm())
        if not apart <= SAME * max(scale, 1.0):
            raise ModelError(
                "a patient's gradient is wrong",
                where=f"parameter {name}",
                found=f"difference {apart:.2g} at norm {scale:.2g}",
                wanted="the gradient that autograd gives for this patient alone",
                remedy="use the parameter only in the forward of its own module, and keep the "
                "batch as the first dimension of every layer's input",
            )
        start = stop


def _require_no_chance(model: nn.Module, patients: Patients) -> None:
    """The same input must give the same output twice."""
    items = patients.inputs.shape[1]
    twice = [_outputs(model, patients.inputs, items, len(patients)) for _ in range(2)]
    for (name, one), (_, other) in zip(*twice, strict=True):
        if not _alike(one, other):
            raise ModelError(
                "a module uses random numbers of its own",
                where=f"module {name or 'the model itself'}",
                wanted="the same output for the same input",
                remedy="remove dropout and similar modules from the model",
            )


def _require_apart(model: nn.Module, patients: Patients) -> None:
    """No module's output for the first patient may change with the other patients."""
    first = patients.inputs[:1]
    # Shifted by a pixel and three times as large: any statistic over the batch must change.
    others = patients.inputs.roll(1, dims=-1)[1:]
    others = 3 * others if others.is_floating_point() else others  # else sums stay as they are
    outputs = [
        _outputs(model, torch.cat([first, rest]), len(first[0]), 1)
        for rest in (patients.inputs[1:], others)
    ]
    for (name, one), (_, other) in zip(*outputs, strict=True):
        if one.shape != other.shape or not _alike(one, other):
            raise ModelError(
                "in this module one patient's image changes another patient's output",
                where=f"module {name or 'the model itself'}",
                wanted="outputs that depend only on the patient's own input",
                remedy="replace the module in the model",
            )


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=SAME, atol=SAME, equal_nan=True)


def _outputs(
    model: nn.Module, inputs: torch.Tensor, items: int, patients: int
) -> list[tuple[str, torch.Tensor]]:
    """What each module gives for the first patients, in the order in which they are done."""
    seen: list[tuple[str, torch.Tensor]] = []

    def keep(name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and len(output) == items * len(inputs):
                seen.append((name, output[: items * patients].detach().clone()))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(inputs.flatten(0, 1))
    finally:
        for handle in hooks:
            handle.remove()
    return seen
