"""One process for each study that is under way, started again when it dies.

A process that ends by itself has said in the store how its study stands. One that was killed,
or lost the SuperLink, has not: it is started again, after a pause that doubles while it comes
to nothing, and goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Final

import structlog

from common.errors import EXIT_CODE, CoordinatorError
from server.daemon.settings import Home
from server.store import CoordinatorStore
from server.store.rows import StudyState

ALIVE: Final = frozenset({StudyState.OFFERED, StudyState.WAITING, StudyState.RUNNING})
"""Where a study stands that has a process."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
STEADY_SECONDS: Final = 60.0
"""Who has run for so long has come to something."""
log = structlog.get_logger(__name__)


class StudySupervisor:
    """The studies' processes.

    Args:
        home: the coordinator's.
        store: how studies stand.
        port: where the SuperLink listens.
        ready: set while there is a SuperLink.
    """

    def __init__(
        self, home: Home, store: CoordinatorStore, port: int, ready: asyncio.Event
    ) -> None:
        self._home = home
        self._store = store
        self._port = port
        self._ready = ready
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def names(self) -> Iterable[str]:
        """The studies that are under way."""
        return sorted(self._tasks)

    def pid(self, name: str) -> int | None:
        """The process of a study, while it has one."""
        process = self._processes.get(name)
        return None if process is None else process.pid

    def begin(self, name: str) -> None:
        """See to a study from now on."""
        if name not in self._tasks:
            task = self._tasks[name] = asyncio.create_task(self._keep(name))
            task.add_done_callback(lambda _task: self._tasks.pop(name, None))

    async def end(self, name: str) -> None:
        """See to a study no longer: its process is ended, and has ended when this returns."""
        task = self._tasks.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def end_all(self) -> None:
        """End every process."""
        await asyncio.gather(*(self.end(name) for name in list(self._tasks)))

    def interrupt(self) -> None:
        """The SuperLink was lost: end the processes, which are started again when it is back."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _keep(self, name: str) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._ready.wait()
            began = time.monotonic()
            code = await self._run_if_possible(name)
            if not await asyncio.to_thread(self._goes_on, name, code):
                return
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            log.warning("study.interrupted", study=name, code=code, pause=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _goes_on(self, name: str, code: int) -> bool:
        """Whether a study whose process has ended is to have another."""
        try:
            return self._stands(name, code)
        except CoordinatorError as error:  # its store is away: the process will have met that too
            log.error("study.unknown", study=name, what=error.what)
            return True

    def _stands(self, name: str, code: int) -> bool:
        state = self._store.study(name).state
        if state not in ALIVE:
            return False
        if code == EXIT_CODE:  # it could not even say so itself
            self._fail(name, "its process could not begin", "see the daemon's log")
            return False
        self._store.record(name, "study.interrupted", fields={"code": code})
        return True

    def _fail(self, name: str, what: str, remedy: str) -> None:
        found = {"what": what, "do": remedy}
        self._store.record(name, "study.failed", fields=found)
        self._store.set_state(name, StudyState.FAILED, json.dumps(found))

    async def _run_if_possible(self, name: str) -> int:
        try:
            return await self._run(name)
        except OSError as error:  # no memory for it, or no room for a process
            log.error("study.not-begun", study=name, found=error.strerror)
            return os.EX_OSERR

    async def _run(self, name: str) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "server.daemon.study_process"),
            *("--home", str(self._home.folder)),
            *("--study", name),
            *("--port", str(self._port)),
            *("--parent", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the one who ends it
        )
        self._processes[name] = process
        log.info("study.process", study=name, pid=process.pid)
        try:
            return await process.wait()
        finally:
            del self._processes[name]
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
