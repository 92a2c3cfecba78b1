"""One process for each running study, started again when it dies.

A process that ends by itself has written the state of its study to the store. One that was killed,
or that lost the SuperLink, has not: it is started again and goes on from the last checkpoint. The
pause before that doubles for as long as the process does not last.
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
"""States in which a study has a process."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
STEADY_SECONDS: Final = 60.0
"""After a process has run for this long, the next pause is the first one again."""
log = structlog.get_logger(__name__)


class StudySupervisor:
    """The studies' processes.

    Args:
        home: the coordinator's.
        store: the states of the studies.
        port: of the SuperLink.
        ready: set while the SuperLink runs.
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
        """The running studies."""
        return sorted(self._tasks)

    def pid(self, name: str) -> int | None:
        """The process id of a study, while it has a process."""
        process = self._processes.get(name)
        return None if process is None else process.pid

    def begin(self, name: str) -> None:
        """Keep a process for a study from now on."""
        if name not in self._tasks:
            task = self._tasks[name] = asyncio.create_task(self._keep(name))
            task.add_done_callback(lambda _task: self._tasks.pop(name, None))

    async def end(self, name: str) -> None:
        """End a study's process; it has ended when this returns."""
        task = self._tasks.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def end_all(self) -> None:
        """End every process."""
        await asyncio.gather(*(self.end(name) for name in list(self._tasks)))

    def interrupt(self) -> None:
        """The SuperLink was lost: end the processes. They start again when it runs again.

        Their runs are lost with the SuperLink's memory, and they would wait for its time-outs.
        """
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                # SIGKILL, since every step of a study is durable: there is nothing to finish.
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
        """Whether a study whose process has ended needs a new one."""
        try:
            return self._is_alive(name, code)
        except (
            CoordinatorError
        ) as error:  # the store is away: the reason why the process ended, too
            log.error("study.unknown", study=name, what=error.what)
            return True

    def _is_alive(self, name: str, code: int) -> bool:
        state = self._store.study(name).state
        if state not in ALIVE:
            return False
        if code == EXIT_CODE:  # it failed before it could write the reason
            self._fail(
                name,
                "the study's process could not start",
                f"read the daemon's log; fix the cause; then consilium-coordinator resume {name}",
            )
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
        except OSError as error:  # no memory, or too many processes
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
            process_group=0,  # Ctrl-C in a terminal must reach only the daemon, which ends this
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
