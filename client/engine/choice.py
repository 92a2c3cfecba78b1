"""Which kernel serves which layer, in which layout, how many images fit.

No kernel is best everywhere, and which one is depends on the machine (Bu, Mao and Xu 2022 count
operations; a count knows neither caches nor libraries): so the candidates are timed, layer by
layer. Timing needs no patient, only shapes. What it finds goes into the numerics record, so
that a restart, a replay and a simulation compute with the same kernels and come to the same
bits. Where nothing is to be timed, each rule's model of the cost chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import nn

from client.engine.books import Book, Weighing
from client.engine.clipped import Loss, Patients, backward, clipped_sum, place
from client.engine.rule import Layer
from client.engine.sheet import Sheet
from common.numerics import EngineChoice

REPEATS: Final = 4
"""How often a kernel, and a whole step, is timed; the least time counts."""
HOPELESS: Final = 1.5
"""A kernel that takes so many times the best one's time is not timed again."""
SLOW: Final = 8
"""Where one step takes this part of the time allowed, nothing is timed."""
MOST_IMAGES: Final = 256
"""Images that are worked on at once, at most."""
LAYOUTS: Final[tuple[Literal["contiguous", "channels_last"], ...]] = ("contiguous", "channels_last")


@dataclass
class _Timings:
    """The best kernel found for each layer so far.

    Attributes:
        until: when to stop timing, by ``time.perf_counter``.
        kernels: by layer.
    """

    until: float
    kernels: dict[str, str] = field(default_factory=dict)

    def enter(self, layer: Layer, records: list[Any], patients: int) -> Book:
        """Time what may serve the layer; the book of the modelled kernel."""
        modelled = layer.rule.modelled(layer, records, patients)
        candidates = layer.rule.candidates(layer, records, patients)
        if len(candidates) > 1 and time.perf_counter() < self.until:
            self.kernels[layer.name] = _fastest(layer, records, patients, candidates)
        return layer.rule.book(layer, records, patients, modelled)


def _fastest(layer: Layer, records: list[Any], patients: int, candidates: tuple[str, ...]) -> str:
    everyone = torch.ones(patients, dtype=torch.bool, device=layer.weight.device)
    weighing = Weighing(everyone.double(), everyone)
    totals = {
        id(each): torch.zeros(each.shape, dtype=torch.float64, device=each.device)
        for each in layer.parameters.values()
    }
    best, least = candidates[0], float("inf")
    for kernel in candidates:
        for _ in range(REPEATS):
            seconds = _seconds(partial(_use, layer, records, kernel, weighing, totals))
            if seconds > HOPELESS * least:
                break
            if seconds < least:
                best, least = kernel, seconds
    return best


def _use(
    layer: Layer,
    records: list[Any],
    kernel: str,
    weighing: Weighing,
    totals: Mapping[int, torch.Tensor],
) -> None:
    """All that a layer costs in a step beyond what autograd does."""
    patients = len(weighing.factors)
    book = layer.rule.book(layer, records, patients, kernel)
    Sheet({layer: book}, patients, weighing.factors.device).add(totals, weighing)


def _seconds(work: Callable[[], object]) -> float:
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measured(
    model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice, *, seconds: float
) -> EngineChoice:
    """The choice with the layout and the kernels that are fastest here.

    Args:
        model: as for :func:`client.engine.clipped.clipped_sum`; its layout is changed.
        example: random input, as many patients as a tile has places.
        loss: as there.
        choice: its tile is kept.
        seconds: after which no further layer is timed.
    """
    until = time.perf_counter() + seconds
    layouts = LAYOUTS[: 1 + (example.inputs.dim() == 5)]
    tried = []
    for layout in layouts:
        blank = choice.model_copy(update={"memory_format": layout, "kernels": {}})
        timings, placed = _Timings(until), place(model, blank)
        start = time.perf_counter()
        clipped_sum(placed, example, loss, 1.0, blank)  # the libraries prepare themselves
        if time.perf_counter() - start > seconds / SLOW:
            return choice  # there is no time to try anything
        clipped_sum(placed, example, loss, 1.0, blank, enter=timings.enter)
        tried.append(blank.model_copy(update={"kernels": timings.kernels}))
    least = [float("inf")] * len(tried)
    for _ in range(REPEATS):
        for number, each in enumerate(tried):
            step = partial(clipped_sum, place(model, each), example, loss, 1.0, each)
            least[number] = min(least[number], _seconds(step))
    return tried[least.index(min(least))]


def fitting(model: nn.Module, example: Patients, loss: Loss, memory: int) -> int:
    """The most images at once whose activations and gradients stay within bounds.

    What autograd saves for one patient more is counted; as much again is allowed for the
    gradients that come back, and the layers' own.

    Args:
        model: as for :func:`client.engine.clipped.clipped_sum`.
        example: at least two patients of random input, one item each.
        loss: as there.
        memory: bytes.

    Returns:
        Below 1 where not even one fits.
    """
    one, two = (_saved(model, example[slice(0, count)], loss) for count in (1, 2))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    each = 2 * max(two - one, 1)
    return int(min(MOST_IMAGES, (memory - 2 * weights) // each))


def _saved(model: nn.Module, patients: Patients, loss: Loss) -> int:
    sizes: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return value

    alone = replace(patients, inputs=patients.inputs.clone())  # not a part of a larger array
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        backward(model, alone, loss, lambda *_: Book())
    return sum(sizes.values())


def example_of(shape: tuple[int, ...], patients: int, items: int, like: nn.Module) -> Patients:
    """Random input: (patients, items, *shape), of class zero."""
    first = next(like.parameters())
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((patients, items, *shape), generator=generator)
    targets = torch.zeros(patients, dtype=torch.int64)
    return Patients(inputs.to(first.device, first.dtype), targets.to(first.device))
