"""A function over many files in several processes, its results in the files' order.

Threads would not help: decoding holds the interpreter's lock. In a worker process, a decoder
that brings its process down costs the file that it was given, and no other. Few files are
worked on in this process, which such a decoder ends.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

T = TypeVar("T")
R = TypeVar("R")

INLINE: Final = 256
"""Up to this many items are done here: starting processes takes as long."""

BATCH: Final = 512
"""Items in flight: bounds the results that wait for a slow one before them."""


class Job(Protocol):
    """Work under way, as :func:`common.console.progress` gives it."""

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more units as done."""


class Progress(Protocol):
    """How the caller wants to hear about work: :func:`common.console.progress` or like it."""

    def __call__(
        self, description: str, total: int, *, unit: str = ""
    ) -> AbstractContextManager[Job]:
        """Begin a job of ``total`` units."""


class _Silence:
    def advance(self, n: int = 1) -> None:
        """Nothing is shown."""


@contextmanager
def silent(description: str, total: int, *, unit: str = "") -> Iterator[Job]:
    """Progress that nobody hears of."""
    del description, total, unit
    yield _Silence()


def ordered_map(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    crashed: Callable[[T], R],
    inline: int = INLINE,
) -> Iterator[R]:
    """``function`` of each item, in order.

    Args:
        function: importable by name, as other processes find it so.
        items: what to work on.
        workers: processes; 1 works in this one.
        crashed: the result for an item that brought its process down.
        inline: up to this many items are done in this process.
    """
    nested = multiprocessing.current_process().daemon
    if workers <= 1 or len(items) <= inline or nested:
        yield from map(function, items)
        return
    rest, pool = iter(items), _pool(workers)
    try:
        while batch := list(islice(rest, BATCH * workers)):
            done = 0
            try:
                for result in _results([pool.submit(function, item) for item in batch]):
                    yield result
                    done += 1
            except BrokenProcessPool:  # whichever file it was is found one by one
                yield from _one_by_one(function, batch[done:], crashed)
                pool = _pool(workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _one_by_one(
    function: Callable[[T], R], items: list[T], crashed: Callable[[T], R]
) -> Iterator[R]:
    """One item at a time in one process, so that a crash says which item it was."""
    while items:
        with _pool(1) as pool:
            for index, item in enumerate(items):
                try:
                    yield pool.submit(function, item).result()
                except BrokenProcessPool:
                    yield crashed(item)
                    items = items[index + 1 :]
                    break
            else:
                return


def _results(futures: Iterable[Future[R]]) -> Iterator[R]:
    for future in futures:
        yield future.result()


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        # A fork would copy the locks of this process's threads in whatever state they are.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
