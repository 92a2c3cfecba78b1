"""The coordinator's daemon: the process that starts and holds all the others.

It has the home, the store, the public gateway, the control service and the metrics, and keeps the
SuperLink and one process per study running. Its child processes end with it. It may be killed at
any moment: the store knows which studies are running, and the next start goes on with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
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
from server.gateway.gateway import Gateway, GatewaySettings
from server.store import CoordinatorStore, open_store
from server.superlink.notifications import NotificationBoard

FOLLOW_SECONDS: Final = 1.0
# Sites are shown as offline after 75 s; "last seen" need not be more exact than this.
SEEN_SECONDS: Final = 20.0
DAY_SECONDS: Final = 86400.0
HINDERED_SECONDS: Final = 5.0
"""Pause after a failure, such as a store that does not answer."""
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
        self.registry = SiteRegistry()
        self.superlink_supervisor = SuperLinkSupervisor(
            home, store, self.registry, self._superlink_lost
        )
        port = self.superlink_supervisor.superlink.port
        self.study_supervisor = StudySupervisor(home, store, port, self.superlink_supervisor.ready)
        self.refusals = Refusals(store)
        self.board = NotificationBoard(home.notices_socket)
        self.tls = authority.server_context(home)
        self.gateway = self._gateway()
        self.operator_service = OperatorService(
            home,
            store,
            self.registry,
            register=self.superlink_supervisor.register,
            change=self.superlink_supervisor.change,
            cut=self.gateway.cut,
            study_supervisor=self.study_supervisor,
            twins=self.gateway.twins,
        )
        self.traffic: Counter[str] = Counter()
        self.gateway.app.add_middleware(metrics.TrafficCounter, self.traffic, self._heard)
        # A queue: the gateway puts in, and must not wait for the store.
        self._arrivals: asyncio.Queue[str] = asyncio.Queue()
        self._update_sizes: dict[str, int] = {}
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
        superlink, note = self.superlink_supervisor.superlink, self.refusals.note
        return Gateway(self.registry, superlink, settings, self.board, note)

    async def run(
        self, stop: asyncio.Event, ready: Callable[[str, int], None] = lambda _where, _sites: None
    ) -> None:
        """Serve until told to stop.

        Args:
            stop: set by the caller to end it.
            ready: called when it serves, with the gateway's ``host:port`` and the number of
                admitted sites.

        Raises:
            ConsiliumError: it cannot serve; a person must fix something.
        """
        async with AsyncExitStack() as stack:
            tasks = await self._begin(stack)
            for study in self.store.studies(ALIVE):
                self.study_supervisor.begin(study.name)
            stack.push_async_callback(self.study_supervisor.end_all)
            notify("READY=1")
            log.info("coordinator.ready", gateway=self.gateway.port, pid=os.getpid())
            host = self.home.file.coordinator.listen.rpartition(":")[0]
            ready(f"{host}:{self.gateway.port}", len(self.registry.online))
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            notify("STOPPING=1")
            log.info("coordinator.stopping")
            stopping.cancel()
            for task in done - {stopping}:
                task.result()  # a task that ended before the stop has failed: raise its error

    async def _begin(self, stack: AsyncExitStack) -> list[asyncio.Task[None]]:
        """Start everything, or nothing: what has started is on the stack and is ended again.

        The order matters: SuperLink first, so that the gateway has something to pass calls to;
        then the notifications, so that no work is missed; the control service last, so that an
        operator is only answered when everything runs.
        """
        figures = metrics.CoordinatorMetrics(
            self.store, lambda: self.registry.online, self.gateway, self.traffic
        )
        stack.callback(metrics.serve(self.home.file.metrics.listen, figures))
        tasks = [await self._task(stack, self.superlink_supervisor.keep())]
        await self._until(self.superlink_supervisor.ready, tasks)
        await self.board.start()
        stack.push_async_callback(self.board.stop)
        tasks.append(await self._task(stack, self.gateway.serve()))
        await self._until(self.gateway.listening, tasks)
        control = await serve_locally(self.home, self.operator_service)
        stack.push_async_callback(control.stop, STOP_SECONDS)
        operators = await serve_operators(self.home, self.operator_service)
        if operators is not None:
            stack.push_async_callback(operators.stop, STOP_SECONDS)
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
        """Wait for an event, or for the failure of a task that should set it."""
        waiting = asyncio.create_task(event.wait())
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()

    def _superlink_lost(self) -> None:
        self.study_supervisor.interrupt()

    def _heard(self, node_id: int) -> None:
        came = self.registry.heard(node_id)
        if came is not None:
            self._arrivals.put_nowait(came)

    async def _write_seen(self) -> None:
        """Record a site that connects, at once, and when each site was last seen, now and then."""
        with contextlib.suppress(TimeoutError):
            name = await asyncio.wait_for(self._arrivals.get(), SEEN_SECONDS)
            await asyncio.to_thread(self.store.record, None, "site.seen", site=name)
        for site, online in self.registry.online.items():
            if online:
                await asyncio.to_thread(self.store.seen, site)

    async def _follow(self) -> None:
        """Let the gateway accept updates as large as the running studies need, and no larger."""
        events = await asyncio.to_thread(
            self.store.events, None, self._followed, kind="study.started"
        )
        for event in events:
            self._followed = event.id
            self._update_sizes[str(event.study)] = int(event.fields.get("update_bytes", 0))
        self.gateway.expect_updates(map(self._update_sizes.get, self.study_supervisor.names))
        await asyncio.sleep(FOLLOW_SECONDS)

    async def _renew(self) -> None:
        """Renew certificates before they expire; sites notice nothing."""
        await asyncio.sleep(DAY_SECONDS)
        renewed = await asyncio.to_thread(authority.renew, self.home)
        if self.home.server_certificate in renewed:
            self.tls.load_cert_chain(self.home.server_certificate, self.home.server_key)
        if self.home.loopback_certificate in renewed:
            await asyncio.to_thread(
                self.superlink_supervisor.superlink.stop
            )  # the supervisor restarts it
        for path in renewed:
            log.info("certificate.renewed", file=path.name)


async def _steadily(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Repeat something for ever; a store that is away for a while does not end it."""
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
        ConsiliumError: it cannot serve; a person must fix something.
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
    loop.set_exception_handler(_log_defect)
    await Daemon(home, store).run(stop, ready)


def _log_defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that no code waited for: name and place only, its text may hold data."""
    error = context.get("exception")
    name = type(error).__name__ if error else "none"
    log.error("coordinator.defect", error=name, at=place(error) if error else "unknown")
