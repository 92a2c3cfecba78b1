"""The SuperLink behind the gateway: started, watched, and started again when it dies.

Its state is in memory, so after each start every site is registered anew, from the store; the
processes of the studies, whose runs it has forgotten, are started anew as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final

import structlog

from common.errors import ConsiliumError
from common.process.ports import free_port
from server.daemon.settings import Home
from server.daemon.site_registry import SiteRegistry
from server.store import CoordinatorStore
from server.store.rows import SiteRecord
from server.superlink.superlink import SuperLink

LOOK_SECONDS: Final = 0.25
MOST_SECONDS: Final = 30.0
"""The longest pause between two attempts to start it."""
log = structlog.get_logger(__name__)


def superlink_of(home: Home, port: int) -> SuperLink:
    """The coordinator's SuperLink on a port of loopback, whoever starts it."""
    return SuperLink(
        home.state / "superlink",
        port,
        cert=home.loopback_certificate,
        key=home.loopback_key,
        ca=home.ca_certificate,
        secret=home.guard_secret,
    )


class SuperLinkSupervisor:
    """Keeps a SuperLink running.

    Args:
        home: the coordinator's.
        store: which sites there are.
        roll: told of each site's node.
        lost: called when it has died, before it is started again.
    """

    def __init__(
        self, home: Home, store: CoordinatorStore, roll: SiteRegistry, lost: Callable[[], None]
    ) -> None:
        (home.state / "superlink").mkdir(mode=0o700, exist_ok=True)
        port = home.file.coordinator.superlink_port or free_port()
        self.superlink = superlink_of(home, port)
        self.ready = asyncio.Event()
        """Set while it runs and knows all sites."""
        self._store = store
        self._roll = roll
        self._lost = lost
        self._registering = asyncio.Lock()

    async def keep(self) -> None:
        """Keep it running until cancelled.

        Raises:
            ConsiliumError: it did not even start once.
            OSError: as well.
        """
        pause, begun = 0.5, False
        try:
            while True:
                try:
                    await self._start()
                except (ConsiliumError, OSError) as error:  # the store may be away, or memory
                    if not begun:
                        raise
                    found = error.strerror if isinstance(error, OSError) else error.what
                    log.error("superlink.not-started", found=found, pause=pause)
                else:
                    begun, pause = True, 0.5
                    await self._until_dead()
                    log.error("superlink.died", last="\n".join(self.superlink.recent[-3:]))
                self.ready.clear()
                self._lost()
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_SECONDS)
        finally:
            self.ready.clear()
            self._kill()
            self.superlink.stop()

    async def register(self, name: str) -> None:
        """Make a site known to it and on the roll. While it is down, starting it will do so."""
        async with self._registering:
            site = await self._site(name)
            if self.ready.is_set():
                await self._register(site)
            else:
                self._roll.change(site)

    async def change(self, site: SiteRecord) -> None:
        """Take over whether a site may come in: at once, and once more after who registers it.

        A registration under way may have read the site's record before it was changed.
        """
        self._roll.change(site)
        async with self._registering:
            self._roll.change(await self._site(site.name))

    async def _start(self) -> None:
        await asyncio.to_thread(self.superlink.stop)
        self.superlink.start()  # from the main thread: it is killed when that one ends
        await asyncio.to_thread(self.superlink.wait_until_healthy)
        async with self._registering:
            for site in await asyncio.to_thread(self._store.sites):
                await self._register(site)
            self.ready.set()
        log.info("superlink.ready", pid=self.superlink.pid)

    async def _register(self, site: SiteRecord) -> None:
        node_id = await asyncio.to_thread(self.superlink.register, site.card)
        self._roll.enter(await self._site(site.name), node_id)  # it may have been removed meanwhile

    async def _site(self, name: str) -> SiteRecord:
        return await asyncio.to_thread(self._store.site, name)

    def _kill(self) -> None:
        """End it at once: there is nothing in it that must last."""
        pid = self.superlink.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _until_dead(self) -> None:
        while self.superlink.pid is not None:
            await asyncio.sleep(LOOK_SECONDS)
