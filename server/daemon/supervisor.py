"""The coordinator's daemon: one process that everything else belongs to.

It holds the home, the store, the public gateway, the control service and the metrics, and
keeps the SuperLink and one process a study running. Children die with it, and it may die at
any moment: what is under way stands in the store, and the next start goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from common.errors import ConsiliumError, CoordinatorError
from common.process.claim import Owner, claimed, notify
from common.process.logs import place
from server.daemon import authority, metrics
from server.daemon.control import STOP_SECONDS, serve_locally, serve_operators
from server.daemon.operator_service import OperatorService
from server.daemon.recording import Refusals
from server.daemon.settings import Home
from server.daemon.site_registry import SiteRegistry
from server.daemon.study_supervisor import ALIVE, StudySupervisor
from server.daemon.superlink_supervisor import SuperLinkSupervisor
from server.gateway.fleet_calls import DEFAULT_UPDATE, LEAST_UPDATE
from server.gateway.gateway import Gateway, GatewaySettings
from server.store import CoordinatorStore, open_store
from server.superlink.notifications import NotificationBoard

FOLLOW_SECONDS: Final = 1.0
SEEN_SECONDS: Final = 20.0
DAY_SECONDS: Final = 86400.0
HINDERED_SECONDS: Final = 5.0
OWNER: Final = Owner("coordinator", CoordinatorError, "consilium-coordinator studies")
log = structlog.get_logger(__name__)


class Daemon:
    """Everything that runs in the daemon's process.

    Args:
        home: the coordinator's.
        store: its open store.
    """

    def __init__(self, home: Home, store: CoordinatorStore) -> None:
        self.home = home
        self.store = store
        self.roll = SiteRegistry()
        self.behind = SuperLinkSupervisor(home, store, self.roll, self._superlink_lost)
        port = self.behind.superlink.port
        self.conductors = StudySupervisor(home, store, port, self.behind.ready)
        self.refusals = Refusals(store)
        self.board = NotificationBoard(home.notices_socket)
        self.tls = authority.server_context(home)
        self.gateway = self._gateway()
        self.office = OperatorService(
            home,
            store,
            self.roll,
            register=self.behind.register,
            change=self.behind.change,
            cut=self.gateway.cut,
            conductors=self.conductors,
        )
        self.traffic = metrics.Traffic()
        self.gateway.app.add_middleware(metrics.Meter, self.traffic, self._heard)
        self.operators_port: int | None = None
        self._came: asyncio.Queue[str] = asyncio.Queue()
        self._sizes: dict[str, int] = {}
        self._followed = 0

    def _gateway(self) -> Gateway:
        file = self.home.file
        settings = GatewaySettings(
            listen=file.coordinator.listen,
            tls=self.tls,
            requests_per_second=file.limits.requests_per_second,
            connections=file.limits.connections,
            connections_per_site=file.limits.connections_per_site,
        )
        superlink, note = self.behind.superlink, self.refusals.note
        return Gateway(self.roll, superlink, settings, self.board, note)

    async def run(
        self, stop: asyncio.Event, ready: Callable[[str, int], None] = lambda _where, _sites: None
    ) -> None:
        """Serve until told to stop.

        Args:
            stop: set by who tells.
            ready: called when it serves, with the gateway's ``host:port`` and how many sites may
                come in.

        Raises:
            ConsiliumError: something a person must mend keeps it from serving.
        """
        async with AsyncExitStack() as stack:
            tasks = await self._begin(stack)
            for study in self.store.studies(ALIVE):
                self.conductors.begin(study.name)
            stack.push_async_callback(self.conductors.end_all)
            notify("READY=1")
            log.info("coordinator.ready", gateway=self.gateway.port, pid=os.getpid())
            host = self.home.file.coordinator.listen.rpartition(":")[0]
            ready(f"{host}:{self.gateway.port}", len(self.roll.online))
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            notify("STOPPING=1")
            log.info("coordinator.stopping")
            stopping.cancel()
            for task in done - {stopping}:
                task.result()  # what ended by itself has failed

    async def _begin(self, stack: AsyncExitStack) -> list[asyncio.Task[None]]:
        """Start everything; what fails to start stops all the rest."""
        figures = metrics.CoordinatorMetrics(
            self.store, lambda: self.roll.online, self.gateway, self.traffic
        )
        stack.callback(metrics.serve(self.home.file.metrics.listen, figures))
        tasks = [await self._task(stack, self.behind.keep())]
        await self._until(self.behind.ready, tasks)
        await self.board.start()
        stack.push_async_callback(self.board.stop)
        tasks.append(await self._task(stack, self.gateway.serve()))
        await self._until(self.gateway.listening, tasks)
        control = await serve_locally(self.home, self.office)
        stack.push_async_callback(control.stop, STOP_SECONDS)
        operators = await serve_operators(self.home, self.office)
        if operators is not None:
            server, self.operators_port = operators
            stack.push_async_callback(server.stop, STOP_SECONDS)
        tasks.append(await self._task(stack, self.refusals.keep()))
        for work in (self._follow, self._write_seen, self._renew):
            tasks.append(await self._task(stack, _steadily(work)))
        stack.push_async_callback(self.refusals.flush)
        return tasks

    async def _task(
        self, stack: AsyncExitStack, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        """Run something until the stack is left."""
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConsiliumError):
                await task

        stack.push_async_callback(end)
        return task

    async def _until(self, event: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for an event, or for the failure of what should bring it."""
        waiting = asyncio.create_task(event.wait())
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()

    def _superlink_lost(self) -> None:
        self.conductors.interrupt()

    def _heard(self, node_id: int) -> None:
        came = self.roll.heard(node_id)
        if came is not None:
            self._came.put_nowait(came)

    async def _write_seen(self) -> None:
        """Write down who comes, at once, and who is there, now and then."""
        with contextlib.suppress(TimeoutError):
            name = await asyncio.wait_for(self._came.get(), SEEN_SECONDS)
            await asyncio.to_thread(self.store.record, None, "site.seen", site=name)
        for site, online in self.roll.online.items():
            if online:
                await asyncio.to_thread(self.store.seen, site)

    async def _follow(self) -> None:
        """Let the gateway take updates as large as the studies under way have them, and no larger.

        Of a study that has just begun it is not known yet.
        """
        events = await asyncio.to_thread(
            self.store.events, None, self._followed, kind="study.started"
        )
        for event in events:
            self._followed = event.id
            self._sizes[str(event.study)] = int(event.fields.get("update_bytes", 0))
        alive = [self._sizes.get(name, DEFAULT_UPDATE) for name in self.conductors.names]
        self.gateway.largest_update = max([LEAST_UPDATE, *alive])
        await asyncio.sleep(FOLLOW_SECONDS)

    async def _renew(self) -> None:
        """Issue certificates anew before they expire; sites notice nothing."""
        await asyncio.sleep(DAY_SECONDS)
        renewed = await asyncio.to_thread(authority.renew, self.home)
        if self.home.server_certificate in renewed:
            self.tls.load_cert_chain(self.home.server_certificate, self.home.server_key)
        if self.home.loopback_certificate in renewed:
            await asyncio.to_thread(self.behind.superlink.stop)  # it is started again
        for path in renewed:
            log.info("certificate.renewed", file=path.name)


async def _steadily(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something over and over; a store that is away for a while ends nothing."""
    while True:
        try:
            await work()
        except ConsiliumError as error:
            log.error("coordinator.hindered", what=error.what, **error.details)
            await asyncio.sleep(HINDERED_SECONDS)


def serve(home: Home, ready: Callable[[str, int], None]) -> None:
    """Serve a home until SIGTERM or SIGINT.

    Args:
        home: the coordinator's.
        ready: as :meth:`Daemon.run` calls it.

    Raises:
        ConsiliumError: something a person must mend keeps it from serving.
    """
    with claimed(home.state, OWNER):
        authority.renew(home)
        with open_store(home.store_url) as store:
            asyncio.run(_serve(home, store, ready))


async def _serve(home: Home, store: CoordinatorStore, ready: Callable[[str, int], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(_say)
    await Daemon(home, store).run(stop, ready)


def _say(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that nobody waited for: by name and place, never by its text."""
    error = context.get("exception")
    name = type(error).__name__ if error else "none"
    log.error("coordinator.defect", error=name, at=place(error) if error else "unknown")
