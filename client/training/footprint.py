"""How much memory and work a model needs, computed from shapes before anything is built.

The coordinator decides how large a model and its images are, before anyone at the site approved
them: it must not be able to fill the site's memory by asking. So a step first runs on torch's
``meta`` device, whose arrays have shapes and no numbers: the same code as a real step, in
milliseconds and almost no memory. The size of each array is added when it is made, and subtracted
when it is freed.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from client.engine.clipped import PLAIN, Patients, clipped_sum
from client.training.gradients import summed_loss
from client.training.targets import TARGETS
from common.numerics import LARGEST_TILE, EngineChoice
from common.tasks.task import Task

BESIDE: Final = 2.0
"""Memory of a step over the sum of its arrays: libraries copy the inputs of convolutions. Measured
with the shared models, from 1.1 to 1.5 (``tests/client/training/test_footprint.py``)."""
COPIES: Final = 5
"""Copies of the weights in a round: the model's, those received, the start, the current ones and
their velocity."""
_FLOAT: Final = 4
_LABEL: Final = 8
MOST_IMAGES: Final = 256
"""Most images that are worked on at once."""


@dataclass(frozen=True)
class Room:
    """What one step over some patients takes.

    Attributes:
        bytes: of memory, at the moment when it takes most.
        work: floating-point operations of its matrix products and convolutions.
    """

    bytes: int
    work: int


def room_of(
    sketch: nn.Module,
    shape: tuple[int, ...],
    task: Task,
    *,
    patients: int,
    items: int,
    blank: EngineChoice = PLAIN,
) -> Room:
    """What a step over a tile of patients takes, by the kernels that arithmetic speaks for.

    Args:
        sketch: a model on the ``meta`` device.
        shape: of one item: channels, height, width.
        task: whose loss it is.
        patients: places of the tile.
        items: of each patient.
        blank: precision, and whether activations are checkpointed.

    Raises:
        ModelError: the model cannot be trained privately.
    """
    with torch.device("meta"):
        targets = TARGETS[task.target].made_up(task, patients, items, (shape[-2], shape[-1]))
        everyone = Patients(torch.zeros((patients, items, *shape)), targets)
    with _Watch() as watch:
        choice = blank.model_copy(update={"tile": patients})
        clipped_sum(sketch, everyone, summed_loss(task), 1.0, choice)
    arrays = watch.peak + everyone.inputs.nbytes
    weights = sum(each.nbytes for each in sketch.parameters())
    return Room(bytes=COPIES * weights + int(BESIDE * arrays), work=watch.work)


def fitting(
    sketch: nn.Module,
    shape: tuple[int, ...],
    task: Task,
    memory: int,
    *,
    items: int,
    blank: EngineChoice = PLAIN,
) -> int:
    """Patients whose step stays within a memory: a power of two; 0 where not even one does.

    Args:
        sketch: as for :func:`room_of`.
        shape: as there.
        task: as there.
        memory: bytes.
        items: of each patient.
        blank: as there.
    """

    def taken(patients: int) -> int:
        return room_of(sketch, shape, task, patients=patients, items=items, blank=blank).bytes

    one, two = taken(1), taken(2)
    if one > memory:
        return 0
    most = max(1, min(LARGEST_TILE, MOST_IMAGES // items))
    # From the line through one and two patients; what is fixed is counted once.
    guess = min(most, 1 + (memory - one) // max(two - one, 1))
    fits = 1 << (guess.bit_length() - 1)
    while fits > 1 and taken(fits) > memory:
        fits //= 2  # kernels change with the size of a tile
    return fits


def looked_at(sketch: nn.Module, shape: tuple[int, ...], items: int) -> int:
    """Bytes that a model takes to say something of items, with its weights.

    Args:
        sketch: as for :func:`room_of`.
        shape: as there.
        items: that go through it at once.
    """
    with torch.no_grad(), _Watch() as watch:
        given = torch.zeros((items, *shape), device="meta")
        sketch.eval()(given)
    return sum(each.nbytes for each in sketch.parameters()) + int(BESIDE * watch.peak)


def evaluated(shape: tuple[int, ...], task: Task, *, items: int) -> int:
    """Bytes of what an evaluation holds of one patient at once, beside a step.

    Only numbers for each pixel are many: the outputs of all items, twice while they are put
    together, and their masks.

    Args:
        shape: as for :func:`room_of`.
        task: as there.
        items: that are looked at, at most.
    """
    outputs, dense = task.heads()
    return items * math.prod(shape[1:]) * (2 * outputs * _FLOAT + _LABEL) if dense else 0


class _Watch(TorchDispatchMode):
    """Adds up what operations allocate and do.

    Attributes:
        peak: bytes at the moment when there were most.
        work: floating-point operations.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's is untyped
        self.peak = self.work = 0
        self._live: dict[int, int] = {}
        self._now = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation of torch
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation gives
        named = kwargs or {}
        given = {_memory_of(each) for each in _arrays((args, named))}
        found = func(*args, **named)
        # What an operation gives back may be what it was given, changed in place: no more memory.
        for each in _arrays(found):
            if _memory_of(each) not in given and _memory_of(each) not in self._live:
                self._enter(each.untyped_storage())
        self.peak = max(self.peak, self._now)
        counted = flop_registry.get(func.overloadpacket)
        if counted is not None:
            self.work += int(counted(*args, **named, out_val=found))
        return found

    def _enter(self, storage: torch.UntypedStorage) -> None:
        # By storage: a view has an address of its own and takes no memory.
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001 - no address without numbers
        self._live[key] = size
        self._now += size
        weakref.finalize(storage, self._leave, key).atexit = False

    def _leave(self, key: int) -> None:
        self._now -= self._live.pop(key)


def _arrays(values: object) -> list[torch.Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def _memory_of(array: torch.Tensor) -> int:
    """What tells an array's memory from another's while it is there."""
    return int(array.untyped_storage()._cdata)  # noqa: SLF001 - as above
