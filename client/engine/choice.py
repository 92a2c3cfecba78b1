"""Which kernel serves which layer, in which layout.

No kernel is best everywhere, and the best one depends on the machine (Bu, Mao and Xu 2022 count
operations, but a count knows neither caches nor libraries). So the candidates are timed, layer by
layer. Timing needs only shapes, no patient. The result goes into the numerics record, so that a
restart, a replay and a simulation use the same kernels and get the same bits. If nothing may be
timed, each rule's model of the cost chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import nn

from client.engine.clipped import Loss, Patients, clipped_sum, place
from client.engine.layers import refusing
from client.engine.rule import Book, Layer, Weighing
from client.engine.sheet import Sheet
from common.devices.device import Device
from common.devices.devices import DEVICES
from common.numerics import EngineChoice

REPEATS: Final = 4
"""How often a kernel, and a whole step, is timed. The least time counts: other programs on the
machine only ever make a run slower."""
HOPELESS: Final = 1.5
"""A kernel that takes this many times the best one's time is not timed again."""
SLOW: Final = 8
"""If one step takes more than the allowed time divided by this, nothing is timed."""


@dataclass
class _Timings:
    """The best kernel found for each layer so far.

    Attributes:
        until: when to stop timing, by ``time.perf_counter``.
        device: that computes.
        kernels: by layer.
    """

    until: float
    device: Device
    kernels: dict[str, str] = field(default_factory=dict)

    def enter(self, layer: Layer, records: list[Any], patients: int) -> Book:
        """Time what may serve the layer; the book of the modelled kernel."""
        modelled = layer.rule.modelled(layer, records, patients)
        candidates = layer.rule.candidates(layer, records, patients)
        if len(candidates) > 1 and time.perf_counter() < self.until:
            self.kernels[layer.name] = _fastest(self.device, layer, records, patients, candidates)
        return layer.rule.book(layer, records, patients, modelled)


def _fastest(
    device: Device,
    layer: Layer,
    records: list[Any],
    patients: int,
    candidates: tuple[str, ...],
) -> str:
    everyone = torch.ones(patients, dtype=torch.bool, device=layer.weight.device)
    weighing = Weighing(everyone.double(), everyone)
    totals = {
        id(each): torch.zeros(each.shape, dtype=torch.float64, device=each.device)
        for each in layer.parameters.values()
    }
    best, least = candidates[0], float("inf")
    for kernel in candidates:
        for _ in range(REPEATS):
            seconds = _seconds(device, partial(_use, layer, records, kernel, weighing, totals))
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


def _seconds(device: Device, work: Callable[[], object]) -> float:
    device.finish()
    start = time.perf_counter()
    work()
    device.finish()
    return time.perf_counter() - start


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

    Raises:
        ModelError: names a module that this device does not compute.
    """
    return refusing(model, partial(_measured, model, example, loss, choice, seconds))


def _measured(
    model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice, seconds: float
) -> EngineChoice:
    device, until = DEVICES[choice.device], time.perf_counter() + seconds
    # channels_last exists for images alone: (patients, items, channels, height, width).
    layouts = device.layouts[: 1 + (example.inputs.dim() == 5)]
    tried = []
    for layout in layouts:
        blank = choice.model_copy(update={"memory_format": layout, "kernels": {}})
        timings, placed = _Timings(until, device), place(model, blank)
        start = time.perf_counter()
        # The first pass also loads kernels and plans: its time is no step's time.
        clipped_sum(placed, example, loss, 1.0, blank)
        if time.perf_counter() - start > seconds / SLOW:
            return choice  # there is no time to try anything
        clipped_sum(placed, example, loss, 1.0, blank, enter=timings.enter)
        tried.append(blank.model_copy(update={"kernels": timings.kernels}))
    least = [float("inf")] * len(tried)
    # In turn, so that a machine that is busy for a while slows both layouts alike.
    for _ in range(REPEATS):
        for number, each in enumerate(tried):
            step = partial(clipped_sum, place(model, each), example, loss, 1.0, each)
            least[number] = min(least[number], _seconds(device, step))
    return tried[least.index(min(least))]


def example_of(shape: tuple[int, ...], patients: int, items: int, like: nn.Module) -> Patients:
    """Random input: (patients, items, *shape), of class zero."""
    first = next(like.parameters())
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((patients, items, *shape), generator=generator)
    targets = torch.zeros(patients, dtype=torch.int64)
    return Patients(inputs.to(first.device, first.dtype), targets.to(first.device))
