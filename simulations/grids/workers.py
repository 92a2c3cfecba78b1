"""Workers on this machine: processes, with the model and the replies in memory that they share."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import TYPE_CHECKING, Final

from common.errors import SiteError
from common.process.logs import configure
from common.process.parent import die_with_parent
from common.wire.flower import identify
from simulations.grids.nodes import RUN_ID, answered
from simulations.grids.remote import AHEAD, Asked, Crew, Factory, Taken
from simulations.grids.transport import Reader, Shelf, memory_file, packed, read_part, unpacked

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.constant import SUPERLINK_NODE_ID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.process import BaseProcess

_ENDING: Final = 5.0
"""Seconds that a worker has to close its sites."""


@dataclass
class _Process:
    """A worker and what is shared with it.

    Attributes:
        process: itself.
        line: for tasks and replies.
        replies: memory files of replies, by slot.
        tasks: how many it has.
        is_ready: whether it has begun to work.
    """

    process: BaseProcess
    line: Connection
    replies: tuple[int, ...]
    tasks: int = 0
    is_ready: bool = False

    def give(self, data: bytes) -> None:
        """Send a task."""
        self.tasks += 1
        with suppress(OSError):  # it has ended: reading tells
            self.line.send_bytes(data)

    def read(self) -> bytes | None:
        """What it sent: a reply; nothing when it began to work.

        Raises:
            EOFError: it has ended.
        """
        data = self.line.recv_bytes()
        if not self.is_ready:
            self.is_ready = True
            return None
        self.tasks -= 1
        return data

    def end(self, patience: float = 0.0) -> None:
        self.line.close()  # a worker that waits for a task ends now
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        for file in self.replies:
            os.close(file)


class ProcessCrew(Crew):
    """Processes of this machine.

    Args:
        factories: of each worker's program.
    """

    def __init__(self, factories: Sequence[Factory]) -> None:
        self._factories = factories
        self._processes: dict[int, _Process] = {}
        self._requests = memory_file()
        self._shelf = Shelf(self._requests)

    def start(self, worker: int) -> None:
        """Start a process; what was there before is gone."""
        if worker in self._processes:
            self._processes.pop(worker).end()
        # spawn: a fork would copy locks that other threads hold, and nobody would release them.
        context = multiprocessing.get_context("spawn")
        line, theirs = context.Pipe()
        factory = self._factories[worker]
        process = context.Process(target=_work, args=(theirs, factory, os.getpid()), daemon=False)
        process.start()
        theirs.close()
        replies = tuple(memory_file() for _ in range(AHEAD))
        with suppress(OSError):  # it has ended already: take tells
            for file in (self._requests, *replies):
                send_handle(line, file, process.pid)
        self._processes[worker] = _Process(process, line, replies)

    def give(self, worker: int, task: Asked) -> None:
        """Send a task."""
        self._processes[worker].give(packed(task, self._shelf.put))

    def take(self) -> Taken:
        """Wait for a reply or for the end of a process that has tasks."""
        busy = {each.line: number for number, each in self._processes.items() if each.tasks}
        while True:
            for line in wait(list(busy)):
                number = busy[line]  # type: ignore[index] # what was waited for are these lines
                there = self._processes[number]
                try:
                    data = there.read()
                except (EOFError, OSError):
                    self._require_ready(there)
                    return Taken(number, 0, None)
                if data is None:
                    continue
                slot = data[0]
                reply = unpacked(data[1:], partial(read_part, there.replies[slot]))
                return Taken(number, slot, reply)

    def rest(self) -> None:
        """Forget the model of the round that is over."""
        self._shelf.clear()

    def close(self) -> None:
        """End all processes, each after it has closed its sites."""
        while self._processes:
            self._processes.popitem()[1].end(_ENDING)
        os.close(self._requests)

    def _require_ready(self, there: _Process) -> None:
        if not there.is_ready:
            there.process.join()
            raise SiteError(
                "a process of the simulation's grid cannot be started",
                found=f"it ended with {there.process.exitcode} before its first request",
                wanted="memory and processes for --processes workers",
                remedy="give fewer --processes, or --grid process",
            )


def _work(line: Connection, factory: Factory, parent: int) -> None:
    """The life of a worker: answers for its sites until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    die_with_parent(parent)
    configure()
    identify(RUN_ID, node_id=SUPERLINK_NODE_ID)
    requests = Reader(recv_handle(line))
    shelves = [Shelf(recv_handle(line)) for _ in range(AHEAD)]
    program = factory()
    line.send_bytes(b"ready")
    with suppress(EOFError, OSError):  # the parent needs no more
        while True:
            task: Asked = unpacked(line.recv_bytes(), requests.get)
            if task.before is not None:
                program.recover(task.name, task.before, task.message)
            reply = answered(partial(program.answer, task.name), task.name, task.message)
            shelves[task.slot].clear()
            line.send_bytes(bytes([task.slot]) + packed(reply, shelves[task.slot].put))
    program.close()
