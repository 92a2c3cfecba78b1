"""A function over many files in their order; a file that crashes a decoder costs only itself.

A decoder is foreign code that reads bytes from outside. It runs in a process of its own with
limits on memory and time: a file that crashes this process costs that file and no other.
Threads would not help: decoding holds the interpreter's lock.

Starting a process takes longer than many a folder does. Where one command reads several folders,
:func:`kept_processes` hands each process on to the next.

Some files are known to be harmless: small, and stored as plain numbers. If there are few files,
these are opened in the caller's process, because starting another takes half a second.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from common.errors import DataError
from common.process.parent import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

T = TypeVar("T")
R = TypeVar("R")

INLINE: Final = 256
"""Of more items than this every one is worked on in processes, if there may be several."""
AHEAD: Final = 4
"""Items for each process that may be done before their turn: bounds the results that wait."""
MOST_AHEAD: Final = 16
"""And however many processes there are."""
QUEUED: Final = 2
"""Items that a process is given at a time, so that it need not wait for the next."""
MEMORY: Final = 6 * 2**30
"""Bytes of private memory that a process may take: enough for the largest file that is opened."""
SECONDS: Final = 600
"""Of processor time for one item: a guard against a decoder that never ends."""
PATIENCE: Final = 1800
"""Seconds by the clock for one item: a decoder that waits for itself takes no processor time. A
gigabyte from a slow file server takes less."""
CRASHED: Final = "its decoder crashed or did not end"
"""What is said of a file that ended its process."""


class Elsewhere(Exception):  # noqa: N818 - says where an item is to be worked on
    """This item is to be worked on in a process of its own."""


def ordered_map(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    here: Callable[[T], R],
    workers: int,
    crashed: Callable[[T], R],
) -> Iterator[R]:
    """``function`` of each item, in order.

    Args:
        function: importable by name, as other processes find it so. Where it raises, the item
            counts as one that brought its process down.
        items: what to work on.
        here: the same for this process; raises :class:`Elsewhere` for an item that it is not
            sure of.
        workers: processes at most.
        crashed: the result for an item that brought its process down.

    Raises:
        DataError: no process can be started.
    """
    workers = max(1, workers)
    few = workers == 1 or len(items) <= INLINE
    # One patient's few files may have large results, and must not fill the memory with them.
    ahead = 1 if few else min(AHEAD * workers, MOST_AHEAD)
    done: dict[int, R] = {}
    following = 0
    with closing(_Crew(function, items, crashed, workers)) as crew:
        for place in range(len(items)):
            while place not in done:
                while following < min(len(items), place + ahead) and crew.has_room:
                    try:
                        if not few:
                            raise Elsewhere
                        done[following] = here(items[following])
                    except Elsewhere:
                        crew.give(following)
                    following += 1
                if place not in done:
                    done.update(crew.take())
            yield done.pop(place)


@dataclass
class _Worker:
    """A process and the items that it was given, by their places."""

    process: BaseProcess
    line: Connection
    given: deque[int] = field(default_factory=deque)
    ready: bool = False

    def end(self) -> None:
        self.line.close()
        self.process.kill()
        self.process.join()


_KEPT: Final[ContextVar[list[_Worker] | None]] = ContextVar("kept processes", default=None)
"""Processes without work, where they are kept."""


@contextmanager
def kept_processes() -> Iterator[None]:
    """Keep processes for the next folder while the body lasts, and end them then."""
    if _KEPT.get() is not None:
        yield
        return
    kept: list[_Worker] = []
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)
        for worker in kept:
            worker.end()


class _Crew(Generic[T, R]):
    """Processes that each work on one item after the other; they are started when needed."""

    def __init__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        crashed: Callable[[T], R],
        size: int,
    ) -> None:
        self._function, self._items, self._crashed, self._size = function, items, crashed, size
        self._workers: list[_Worker] = []

    @property
    def has_room(self) -> bool:
        """Whether one more item can be given to somebody."""
        room = any(len(each.given) < QUEUED for each in self._workers)
        return room or len(self._workers) < self._size

    def give(self, place: int) -> None:
        """Have an item worked on."""
        worker = min(self._workers, key=lambda each: len(each.given), default=None)
        if worker is None or (worker.given and len(self._workers) < self._size):
            worker = self._start()
        worker.given.append(place)
        with suppress(OSError):  # the process has died: _gather notices
            worker.line.send((self._function, self._items[place]))

    def take(self) -> dict[int, R]:
        """Wait for results of what was given; by the items' places.

        After a crash, each item of that process is tried again alone, while no other process
        works: a file must not be rejected because another file used up the machine's memory.
        """
        results: dict[int, R] = {}
        lost = self._gather(results)
        if lost:
            while any(each.given for each in self._workers):
                lost += self._gather(results)
            results.update((place, self._alone(place)) for place in lost)
        return results

    def close(self) -> None:
        """End all processes, whatever they are at; those without work may be kept."""
        kept = _KEPT.get()
        while self._workers:
            worker = self._workers.pop()
            if kept is not None and worker.ready and not worker.given:
                kept.append(worker)
            else:
                worker.end()

    def _start(self) -> _Worker:
        if kept := _KEPT.get():
            self._workers.append(kept.pop())
            return self._workers[-1]
        # spawn: a fork would copy locks that other threads hold, and nobody would release them.
        context = multiprocessing.get_context("spawn")
        line, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        try:
            process.start()
        except OSError as error:
            raise _cannot_start(error.strerror) from error
        finally:
            theirs.close()
        worker = _Worker(process, line)
        self._workers.append(worker)
        return worker

    def _gather(self, results: dict[int, R]) -> list[int]:
        """Collect results that are ready; gives the items of processes that died."""
        busy = {each.line: each for each in self._workers if each.given}
        lost: list[int] = []
        for line in wait(list(busy)):
            worker = busy[line]  # type: ignore[index]  # what was waited for are these lines
            try:
                said = worker.line.recv()
            except (EOFError, OSError):
                lost += self._bury(worker)
                continue
            if worker.ready:  # what a process sends first says only that it has started
                results[worker.given.popleft()] = said
            worker.ready = True
        return lost

    def _bury(self, worker: _Worker) -> deque[int]:
        self._workers.remove(worker)
        worker.end()
        # A process that ended before any file is the machine's fault, not a file's: no verdict.
        if not worker.ready:
            raise _cannot_start(f"it ended with {worker.process.exitcode} before its first file")
        return worker.given

    def _alone(self, place: int) -> R:
        results: dict[int, R] = {}
        self.give(place)
        while place not in results:
            if self._gather(results):
                return self._crashed(self._items[place])
        return results[place]


def _cannot_start(found: str | None) -> DataError:
    return DataError(
        "the processes that decode images cannot be started",
        found=found,
        remedy="check that this machine has free memory and that this user may start more "
        "processes; no image file is the cause",
    )


def _serve(line: Connection, parent: int) -> None:
    """The life of a process: says that it is ready, then gives a result for each item."""
    # Ctrl-C goes to the whole group: the parent ends its workers, without a traceback from each.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    _bound_memory()
    line.send(None)
    # What a decoder prints may quote a patient's values: it must not reach a terminal or a log.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        while True:
            function, item = line.recv()
            _bound_time()
            done = function(item)
            signal.alarm(0)  # waiting for the next item is nobody's fault
            line.send(done)
    except BaseException:  # noqa: BLE001 - whatever it was, it costs this item; or the caller is gone
        os._exit(1)


def _bound_memory() -> None:
    """Limit this process before it reads a file; if memory is short, it is killed first."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold a patient's image
    # RLIMIT_DATA, not RLIMIT_AS: libraries reserve far more address space than they use.
    limits = (MEMORY, *resource.getrlimit(resource.RLIMIT_DATA))
    most = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _bound_time() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    # Of this process's whole life so far, since the limit counts from its start.
    until = int(time.process_time()) + SECONDS
    soft = until if hard == resource.RLIM_INFINITY else min(until, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    signal.alarm(PATIENCE)  # unhandled, it ends the process whatever foreign code is at
