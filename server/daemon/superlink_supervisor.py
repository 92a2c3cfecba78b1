"""The SuperLink behind the gateway: started, watched, and started again when it dies.

Its state is in memory, because a poll then costs a third of what it costs with SQLite. So after
each start every site is registered again, from the store, and the studies' processes, whose runs
it has forgotten, are started again too.
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
    """The coordinator's SuperLink on a port of loopback."""
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
        store: has the sites.
        registry: is told each site's node.
        lost: called when it has died, before it is started again.
    """

    def __init__(
        self, home: Home, store: CoordinatorStore, registry: SiteRegistry, lost: Callable[[], None]
    ) -> None:
        (home.state / "superlink").mkdir(mode=0o700, exist_ok=True)
        port = home.file.coordinator.superlink_port or free_port()
        self.superlink = superlink_of(home, port)
        self.ready = asyncio.Event()
        """Set while it runs and knows all sites."""
        self._store = store
        self._registry = registry
        self._lost = lost
        self._registering = asyncio.Lock()

    async def keep(self) -> None:
        """Keep it running until cancelled.

        Raises:
            ConsiliumError: the first start failed.
            OSError: the same.
        """
        pause, begun = 0.5, False
        try:
            while True:
                try:
                    await self._start()
                except (ConsiliumError, OSError) as error:  # the store is away, or memory is short
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
        """Register a site at the SuperLink. While that is down, its next start does so."""
        async with self._registering:
            site = await self._site(name)
            if self.ready.is_set():
                await self._register(site)
            else:
                self._registry.change(site)

    async def change(self, site: SiteRecord) -> None:
        """Update whether a site may connect: at once, and again after a registration under way.

        That registration may have read the site's record before it was changed.
        """
        self._registry.change(site)
        async with self._registering:
            self._registry.change(await self._site(site.name))

    async def _start(self) -> None:
        await asyncio.to_thread(self.superlink.stop)
        self.superlink.start()  # from the main thread: the kernel kills it when that thread ends
        await asyncio.to_thread(self.superlink.wait_until_healthy)
        async with self._registering:
            for site in await asyncio.to_thread(self._store.sites):
                await self._register(site)
            self.ready.set()
        log.info("superlink.ready", pid=self.superlink.pid)

    async def _register(self, site: SiteRecord) -> None:
        node_id = await asyncio.to_thread(self.superlink.register, site.card)
        self._registry.enter(
            await self._site(site.name), node_id
        )  # read again: it may have been removed

    async def _site(self, name: str) -> SiteRecord:
        return await asyncio.to_thread(self._store.site, name)

    def _kill(self) -> None:
        """Kill it: nothing in it must last."""
        pid = self.superlink.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _until_dead(self) -> None:
        while self.superlink.pid is not None:
            await asyncio.sleep(LOOK_SECONDS)
