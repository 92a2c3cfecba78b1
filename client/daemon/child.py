"""A process that the supervisor keeps: started, spoken to by frames, restarted when it dies.

It has a process group of its own, so that the processes that it started end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from client.daemon import frames
from client.daemon.frames import BrokenFrame, Frame
from common.process.logs import place

HEALTHY: Final = 30.0
"""Seconds that a process must have lived for its death to count as the first."""
_BUFFER: Final = 2**22
_DRAWS: Final = random.SystemRandom()

log = structlog.get_logger(__name__)


class Backoff:
    """The waits between the tries of one thing.

    Full jitter: uniform between zero and a bound that doubles, so that after an outage thirty sites
    do not connect in the same second.

    Args:
        first: bound of the first wait, seconds.
        most: bound of all later ones, seconds.
    """

    def __init__(self, first: float = 1.0, most: float = 60.0) -> None:
        self._first = self._bound = first
        self._most = most

    def next(self) -> float:
        """Seconds to wait now; the bound of the wait after it is twice as high."""
        wait = _DRAWS.uniform(0, self._bound)
        self._bound = min(2 * self._bound, self._most)
        return wait

    def reset(self) -> None:
        """It has worked: start with short waits again."""
        self._bound = self._first


class Child:
    """One process, from the first start until :meth:`close`.

    Args:
        name: its name in the log.
        command: what to start; ``{fd}`` in it becomes the number of its socket.
        environment: added to this process's.
        heard: called with each frame.
        died: called after each death with its exit status, negative for a signal, and
            whether it was killed by :meth:`kill`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        heard: Callable[[Frame], None],
        died: Callable[[int, bool], None],
    ) -> None:
        self.name = name
        self.pid: int | None = None
        self.restarts = 0
        self._command = command
        self._environment = dict(environment or {})
        self._heard = heard
        self._died = died
        self._writer: asyncio.StreamWriter | None = None
        self._queue: asyncio.Queue[Frame] = asyncio.Queue()
        self._killed = self._closing = False
        self._backoff = Backoff(first=0.5)
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it, and from now on start it again."""
        self._keeper = asyncio.create_task(self._keep(), name=self.name)

    def send(self, frame: Frame) -> None:
        """Have a frame sent to the process that lives now; a new one never sees it."""
        self._queue.put_nowait(frame)

    def kill(self) -> None:
        """End the process group now; it is started again at once."""
        if self.pid is not None:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def close(self, patience: float) -> None:
        """End it permanently: close its socket, wait, and kill what is left.

        Args:
            patience: seconds that it has to end by itself.
        """
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        if self._keeper is None:
            return
        if self.pid is not None:
            done, _ = await asyncio.wait([self._keeper], timeout=patience)
            if not done:
                self.kill()
                await asyncio.wait([self._keeper], timeout=1)
        self._keeper.cancel()  # where it waits to start the process again

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            try:
                status = await self._live()
            except OSError as error:  # the machine has no process left, or no memory
                log.error("process.not_started", process=self.name, why=error.strerror)
                await asyncio.sleep(self._backoff.next())
                continue
            if self._closing:
                return
            killed, self._killed = self._killed, False
            self.restarts += 1
            log.warning("process.died", process=self.name, status=status, stopped=killed)
            if clock() - begun > HEALTHY:
                self._backoff.reset()
            self._died(status, killed)
            # Killed by us, to stop one study: the others must not wait for the next process.
            await asyncio.sleep(0 if killed else self._backoff.next())

    async def _live(self) -> int:
        """One life of the process; gives its exit status."""
        ours, its = socket.socketpair()
        # A queue for each process: what was sent to the one that died must not reach the next.
        self._queue = asyncio.Queue()
        with its:
            process = await asyncio.create_subprocess_exec(
                *(part.replace("{fd}", str(its.fileno())) for part in self._command),
                env={**os.environ, **self._environment},
                pass_fds=(its.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                # Its own process group, so that kill() reaches the decoders that it started too.
                start_new_session=True,
            )
        self.pid = process.pid
        log.info("process.started", process=self.name, pid=process.pid)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER)
        talking = [
            asyncio.create_task(self._listen(reader)),
            asyncio.create_task(self._speak(self._writer)),
        ]
        try:
            return await process.wait()
        finally:
            await asyncio.wait(talking[:1], timeout=0.5)  # what it said last
            for task in talking:
                task.cancel()
            self._writer.close()
            self._reap(process.pid)
            self.pid = self._writer = None

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while (frame := await frames.read(reader)) is not None:
                self._heard(frame)
        except BrokenFrame:
            log.error("process.garbled", process=self.name)
            self.kill()
        except Exception as error:  # noqa: BLE001 - deaf to it, the daemon would wait for ever
            log.error("process.misheard", process=self.name, at=place(error))
            self.kill()

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        queue = self._queue
        with contextlib.suppress(ConnectionError):  # it died, which process.wait() reports
            while True:
                await frames.write(writer, await queue.get())

    def _reap(self, group: int) -> None:
        """End what the process started and left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
