"""Moving the parts of a message side by side, a few in memory at a time.

Flower cuts a message into objects, each a request of its own. A header can be seen before
its objects have arrived, so an object may be asked for too early; how long to wait for it
is said in hundredths of a second here, where Flower waits one, two, four and more seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

WORKERS: Final = 4
"""Objects under way at once. More would not be faster: either side serves one at a time."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.3


class NotYet(Exception):  # noqa: N818 - what it says is no error of anybody's
    """Part of a message has not arrived in time; the rest may yet come."""


class Gone(Exception):  # noqa: N818
    """Part of a message will never arrive."""


def pool(name: str) -> ThreadPoolExecutor:
    """Threads to move objects with; the caller shuts them down."""
    return ThreadPoolExecutor(WORKERS, thread_name_prefix=name)


def fetch(
    threads: ThreadPoolExecutor,
    ids: Iterable[str],
    pull: Callable[[str], bytes | None],
    patience: float,
) -> dict[str, bytes]:
    """Pull objects; each that is not there yet is tried again for ``patience`` seconds.

    Args:
        threads: where to do it.
        ids: the objects.
        pull: gives an object, or None where it has not arrived yet.
        patience: how long to go on asking, over all objects.

    Raises:
        NotYet: one was still missing then.
        Exception: what ``pull`` raised first.
    """
    deadline = time.monotonic() + patience
    stop = threading.Event()

    def one(object_id: str) -> tuple[str, bytes]:
        pause = FIRST_PAUSE
        while not stop.is_set():
            content = pull(object_id)
            if content is not None:
                return object_id, content
            if time.monotonic() >= deadline:
                break
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise NotYet

    # Once each: equal chunks are one object, and a message may name it many times.
    futures = [threads.submit(one, object_id) for object_id in dict.fromkeys(ids)]
    return dict(_results(futures, stop))


def deliver(
    threads: ThreadPoolExecutor,
    parts: Iterable[tuple[str, Callable[[], bytes]]],
    push: Callable[[str, bytes], None],
) -> None:
    """Push objects, of which no more than :data:`WORKERS` are written out at a time.

    Args:
        threads: where to do it.
        parts: each object's identifier, and what writes it out.
        push: hands one over.

    Raises:
        Exception: what ``push`` raised first.
    """
    rest = iter(parts)
    lock = threading.Lock()
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            with lock:
                part = next(rest, None)
            if part is None:
                return
            push(part[0], part[1]())

    _results([threads.submit(drain) for _ in range(WORKERS)], stop)


def _results(futures: list[Future[T]], stop: threading.Event) -> list[T]:
    """Every result; after a failure nothing more is begun, and what had begun is waited for."""
    results: list[T] = []
    failure: BaseException | None = None
    for future in futures:
        error = future.exception()
        if error is None:
            results.append(future.result())
            continue
        if failure is None or isinstance(failure, NotYet):
            failure = error
        stop.set()
    if failure is not None:
        raise failure
    return results
