"""A thread that has the site open and does what the administrator asks.

SQLite and torch want one thread; the supervisor's must stay free. The daemon has two executors: one
for quick tasks, with the site open for as long as the daemon lives, and one for tasks of minutes,
which opens the site for each task and so keeps no patient's images in memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog

from client.site import Site, open_site
from common.devices.devices import DEVICES
from common.errors import SiteError
from common.process.logs import place

log = structlog.get_logger(__name__)

T = TypeVar("T")
Task = tuple[Callable[[Site], Any], "Future[Any]"]


class SiteExecutor:
    """One thread and its site.

    Args:
        path: the site file.
        state: the state folder.
        known_seed: as for :func:`client.site.open_site`.
        keep_open: whether the site stays open between two tasks.
    """

    def __init__(self, path: Path, state: Path, known_seed: int | None, *, keep_open: bool) -> None:
        self._open = partial(open_site, path, state, known_seed, serves=keep_open)
        self._keep_open = keep_open
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        # No ThreadPoolExecutor: the interpreter joins its threads as it ends, so that an approval
        # which decodes images would keep the daemon from ending for minutes.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    async def ask(self, task: Callable[[Site], T]) -> T:
        """What a function of the open site gives, or raises."""
        future: Future[T] = Future()
        self._tasks.put((task, future))
        return await asyncio.wrap_future(future)

    def note(self, event: str, **fields: object) -> None:
        """Have a line written into the audit log, without waiting for it."""
        self.post(lambda site: site.audit.append(event, **fields))

    def post(self, task: Callable[[Site], Any]) -> None:
        """Have something done, without waiting for it."""
        self._tasks.put((task, Future()))

    def close(self, patience: float) -> bool:
        """Take no more tasks; False where the last one still runs."""
        self._tasks.put(None)
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _work(self) -> None:
        site: Site | None = None
        while (item := self._tasks.get()) is not None:
            task, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                # Opened at the first task, so that what keeps it from opening is told to a caller.
                site = site or self._open()
                result = task(site)
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(_of_card(site, error))
            else:
                future.set_result(result)
            if site is not None and not self._keep_open:
                site.close()
                del task, future, item  # what they refer to may be on the card
                _leave_card(site)
                site = None
        if site is not None:
            site.close()


def _of_card(site: Site | None, error: BaseException) -> BaseException:
    """The error, or that this process's card is lost: only another process can use it again."""
    if site is None:
        return error
    device = DEVICES[site.file.device.name]
    device.let_go(error)  # while a person reads it, tensors would stay on the card
    if not device.is_lost():
        return error
    lost = SiteError(
        "the graphics card (GPU) failed, and the daemon cannot compute on it any more",
        where="[device] gpu",
        found=f"{type(error).__name__} while the command ran",
        remedy="restart the daemon, which costs a running study nothing; then run the command "
        "again. If it fails again, see what nvidia-smi -q and the system log (dmesg, lines with "
        "Xid) say of the card",
    )
    lost.__cause__ = error
    return lost


def _leave_card(site: Site) -> None:
    """A study that was tried for its approval leaves the card to the worker."""
    try:
        DEVICES[site.file.device.name].release()
    except RuntimeError as error:  # the driver's own; the thread has other tasks
        log.error("card.not-released", error=type(error).__name__, at=place(error))
