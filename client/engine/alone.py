"""Does this machine compute a patient in the same bits at every place and beside any others?

Floating-point sums depend on the order of their terms, and libraries choose the order by shape,
place and address (Goldberg 1991; ``docs/engine.md`` says what was measured of which kernel). If
one patient's bits changed with another's presence, weights made to cancel could blow up the last
bit to many clip norms. So it is tried, on random input, in exactly the tile, layout, kernels and
type that training uses: every place in turn, with other patients and without, tiles at several
addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from client.engine.clipped import Loss, Patients, Tile, backward, by_choice, outputs
from client.engine.layers import refusing
from client.engine.rule import Book, Factored, Layer
from common.devices.devices import DEVICES
from common.errors import ModelError
from common.numerics import EngineChoice

SHIFT: Final = 4099
"""Bytes by which the heap grows before another tile is allocated: a page and three bytes, so that
the next tile begins elsewhere."""
MOST_TRIALS: Final = 8
MOST_LOOKS: Final = 16
"""Whole trials of a model that :func:`settled` makes: one for each kernel that is given another
layer. An offer, which nobody has approved, must not keep a card busy for each of 121 layers."""
ENOUGH: Final = 2**15
"""Numbers of a patient, weights and pixels together, for which one trial is enough."""
VOTES: Final = 3
"""Images that are tried in every row."""
STRANGE: Final = (-3.0, 1e20)
"""Factors for the inputs of the patients beside one: a negative factor flips every ReLU, and the
square of 1e20 overflows float32, so that infinities stand beside the patient."""

Bits = dict[str, torch.Tensor]
"""By layer and what it entered, (places, bytes)."""


def require_alone(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> None:
    """Refuse a model for which a patient's bits depend on the other patients on this machine.

    Args:
        model: placed as the choice has it; not changed.
        example: patients of random input, of the shape that training has.
        loss: as for :class:`client.engine.clipped.ClippedSum`.
        choice: as there.

    Raises:
        ModelError: names the layer.
    """
    layer = _differing(model, example, loss, choice)
    if layer is not None:
        raise ModelError(
            "on this machine a patient's result changes with the other patients in the batch",
            where=f"module {layer or 'the model itself'}, in tiles of {choice.tile}",
            found=f"other bits on {DEVICES[choice.device].card() or 'the processor'}",
            wanted="the same bits for the same weights and patient",
            remedy='set kernels = "modelled" or another number of threads in [device] and make a '
            "new offer; if that does not help, replace the module in the model",
        )


def is_alone(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> bool:
    """Whether :func:`require_alone` lets the model through."""
    return _differing(model, example, loss, choice) is None


def settled(
    model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice
) -> EngineChoice | None:
    """The choice, with other kernels for layers that compute a patient otherwise beside others.

    Args:
        model: as for :func:`require_alone`.
        example: as there.
        loss: as there.
        choice: whose kernels are kept where they pass.

    Returns:
        None where no kernel of a layer passes, where it is no layer that differs, or where
        :data:`MOST_LOOKS` trials did not end it: then patients are taken one by one.

    Raises:
        ModelError: names a module that this device does not compute.
    """
    known: dict[str, tuple[str, ...]] = {}

    def look(layer: Layer, _: list[Any], __: int) -> Book:
        known[layer.name] = layer.rule.kernels
        return Book()

    tile = Tile(example, choice.tile, choice)
    refusing(model, partial(backward, model, tile.patients, loss, look))
    # By layer, the kernels that are still to be tried: the modelled one may be tried twice.
    left: dict[str, list[str]] = {}
    for _ in range(MOST_LOOKS):
        name = _differing(model, example, loss, choice)
        if name is None:
            return choice
        others = left.setdefault(name, [*known.get(name, ())])
        if choice.kernels.get(name) in others:
            others.remove(choice.kernels[name])
        if not others:
            return None
        choice = choice.model_copy(update={"kernels": {**choice.kernels, name: others.pop(0)}})
    return None


def _differing(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> str | None:
    """The first layer whose bits differ between two arrangements; None where none does."""
    return refusing(model, partial(_look, model, example, loss, choice))


def _look(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> str | None:
    # The same seeds each time: proposing a study again must not give a new chance to pass.
    for number in range(_trials(model, example)):
        tried = _another(example, number)
        known: dict[int, Bits] = {}
        for who, tile in _arrangements(tried, choice):
            found = _bits(model, tile, loss, choice)
            for place, patient in enumerate(who):
                if patient is None:
                    continue
                here = {name: values[place] for name, values in found.items()}
                first = known.setdefault(patient, here)
                for name, values in here.items():
                    if not torch.equal(values, first[name]):
                        return name.split("|")[0]
        if _votes_differ(model, tried, choice):
            return ""
    return None


def _trials(model: nn.Module, example: Patients) -> int:
    """How often it is tried, each time on other input.

    A small model computes few numbers of a patient, so one trial could miss a rare difference.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    return max(1, min(MOST_TRIALS, ENOUGH // max(1, weights + example.inputs[0].numel())))


def _another(example: Patients, number: int) -> Patients:
    """The same patients with other input; the first time, as they are."""
    if not number or not example.inputs.is_floating_point():
        return example
    draw = torch.Generator().manual_seed(number)
    drawn = torch.randn(example.inputs.shape, generator=draw, dtype=torch.float64)
    return Patients(drawn.to(example.inputs), example.targets)


def _arrangements(
    example: Patients, choice: EngineChoice
) -> Iterator[tuple[list[int | None], Tile]]:
    """Tiles, each with the example's patient that stands in each place; None for a stranger."""
    many, places = len(example), choice.tile
    # Kept until the end, or its place would be reused.
    heap = [example.inputs.new_empty(0, dtype=torch.uint8)]

    def elsewhere() -> Tile:
        heap.append(heap[0].new_empty(len(heap) * SHIFT))
        return Tile(example, places, choice)

    tile = elsewhere()
    for turn in range(min(places, many)):
        order = [(place + turn) % many for place in range(places)]
        yield list(order), tile.hold(example[_index(order, example)])
    yield from _among_strangers(example, elsewhere(), places)
    # Last, one patient with all other places empty: the bits must not need anyone beside.
    tile = elsewhere()
    for place in {0, places // 2, places - 1}:
        who: list[int | None] = [None] * places
        who[place] = 0
        yield who, tile.hold(example[slice(0, 1)], place)


def _among_strangers(
    example: Patients, tile: Tile, places: int
) -> Iterator[tuple[list[int | None], Tile]]:
    """Every other place is a stranger's: other input, another target."""
    many = len(example)
    for known, strange in enumerate(STRANGE):
        at = [place % many for place in range(places)]
        mixed = example[_index(at, example)]
        odd = [place % 2 != known for place in range(places)]
        strangers = torch.tensor(odd, device=mixed.inputs.device)
        inputs, targets = mixed.inputs.clone(), mixed.targets.clone()
        if inputs.is_floating_point():
            inputs[strangers] *= strange
        else:
            inputs[strangers] = inputs[strangers].flip(-1)
        targets[strangers] = example.targets.max() - targets[strangers]
        yield (
            [None if stranger else patient for stranger, patient in zip(odd, at, strict=True)],
            tile.hold(Patients(inputs, targets)),
        )


@torch.no_grad()
def _bits(model: nn.Module, tile: Tile, loss: Loss, choice: EngineChoice) -> Bits:
    """All that a pass computes of each patient: what gradients are made of, and their norms."""
    patients, found = tile.patients, Bits()
    places = len(patients)

    def keep(name: str, values: torch.Tensor) -> None:
        found[name] = _bits_of(values, places)

    make = by_choice(choice)

    def enter(layer: Layer, records: list[Any], count: int) -> Book:
        book = make(layer, records, count)
        for role, held in book.held.items():
            keep(f"{layer.name}|{role}", held)
        for role, factored in book.factored.items():
            _keep_factored(keep, f"{layer.name}|{role}", factored, records)
        return book

    backward(model, patients, loss, enter, choice)
    return found


def _votes_differ(model: nn.Module, example: Patients, choice: EngineChoice) -> bool:
    """Whether an evaluation gives an image other bits in another row of a tile.

    In an evaluation a patient may have any number of images, which may be in any rows.
    """
    tile = Tile(example, choice.tile, choice)
    rows = tile.patients.inputs.flatten(0, 1)
    images = example.inputs.flatten(0, 1)[:VOTES]
    known: dict[int, torch.Tensor] = {}
    for turn in range(len(images)):
        order = [(row + turn) % len(images) for row in range(len(rows))]
        rows.copy_(images[_index(order, example)])
        # The outputs as they are: of some, one number for an image, any softmax is 1.
        found = _bits_of(outputs(model, rows, choice.precision), len(rows))
        for row, image in enumerate(order):
            if not torch.equal(known.setdefault(image, found[row]), found[row]):
                return True
    return False


def _index(order: list[int], example: Patients) -> torch.Tensor:
    return torch.tensor(order, device=example.inputs.device)


def _bits_of(values: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, bytes) of an array."""
    apart = values.detach().reshape(rows, -1).contiguous()
    # NaN has many bit patterns. Which one does not matter: such a patient counts as zero.
    same = torch.where(apart.isnan(), torch.full_like(apart, torch.nan), apart)
    return same.view(torch.uint8).clone()


def _keep_factored(keep: Any, name: str, factored: Factored, records: list[Any]) -> None:  # noqa: ANN401 - a local function
    keep(f"{name} squared", factored.squared)
    keep(f"{name} gross", factored.gross)
    for number, record in enumerate(records):
        for part, values in enumerate(record):
            if values.is_floating_point():
                keep(f"{name} record {number}.{part}", values)
