"""The SuperLink behind the gateway: sites that are removed, and a store that is away, meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from client.node_key import load_node_key, public_node_key
from common.process.ports import free_port
from common.wire.enrolment import SiteCard
from server.daemon.authority import init
from server.daemon.operator_service import OperatorService
from server.daemon.site_registry import SiteRegistry
from server.daemon.study_supervisor import StudySupervisor
from server.daemon.superlink_supervisor import SuperLinkSupervisor
from server.store import CoordinatorStore, open_store
from server.store.rows import SiteRecord, SiteState
from tests.server.store.postgres import running
from tests.waiting import PATIENCE, become


def card_of(name: str, folder: Path) -> SiteCard:
    key = load_node_key(folder / f"{name}.key", make=True)
    return SiteCard(name=name, node_key=public_node_key(key), signing_key="ab" * 32)


class Pausing:
    """Holds up whoever has just read all sites, as a machine with much to do may."""

    def __init__(self, store: CoordinatorStore) -> None:
        self._read = store.sites
        self.read, self.go = threading.Event(), threading.Event()
        store.sites = self  # type: ignore[method-assign]

    def __call__(self) -> tuple[SiteRecord, ...]:
        sites = self._read()
        self.read.set()
        assert self.go.wait(PATIENCE)
        return sites


def service_of(
    supervisor: SuperLinkSupervisor, store: CoordinatorStore, registry: SiteRegistry, folder: Path
) -> OperatorService:
    home = init(folder / "service", "service", f"localhost:{free_port()}").home
    return OperatorService(
        home,
        store,
        registry,
        register=supervisor.register,
        change=supervisor.change,
        cut=lambda node: None,
        study_supervisor=StudySupervisor(home, store, supervisor.superlink.port, supervisor.ready),
    )


async def with_supervisor(
    folder: Path,
    store: CoordinatorStore,
    use: Callable[[SuperLinkSupervisor, SiteRegistry], Awaitable[None]],
) -> None:
    home, registry = init(folder / "home", "demo", f"localhost:{free_port()}").home, SiteRegistry()
    supervisor = SuperLinkSupervisor(home, store, registry, lambda: None)
    keeping = asyncio.create_task(supervisor.keep())
    try:
        await use(supervisor, registry)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


def test_a_site_that_is_removed_while_all_are_registered_stays_out(tmp_path: Path) -> None:
    card = card_of("north", tmp_path)

    with open_store(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        store.admit(card)
        pausing = Pausing(store)

        async def remove(supervisor: SuperLinkSupervisor, registry: SiteRegistry) -> None:
            service = service_of(supervisor, store, registry, tmp_path)
            await become(pausing.read.is_set)
            removing = asyncio.create_task(service.remove("north", "an operator"))
            await become(lambda: store.site("north").state is SiteState.SUSPENDED)
            await asyncio.wait({removing}, timeout=0.5)
            pausing.go.set()
            await removing
            await become(supervisor.ready.is_set)
            known = registry.lookup(card.node_key.encode())
            assert known is None or known.state == "suspended"

        asyncio.run(with_supervisor(tmp_path, store, remove))


@pytest.mark.long
def test_a_superlink_that_dies_while_the_store_is_away_is_started_when_it_is_back(
    tmp_path: Path,
) -> None:
    card = card_of("north", tmp_path)

    with running() as server, open_store(url := server.new_database()) as store:
        store.admit(card)

        async def survive(supervisor: SuperLinkSupervisor, registry: SiteRegistry) -> None:
            await become(supervisor.ready.is_set)
            first = supervisor.superlink.pid
            assert first is not None
            with server.away(url), structlog.testing.capture_logs() as logged:
                os.kill(first, signal.SIGKILL)
                await become(
                    lambda: any(entry["event"] == "superlink.not-started" for entry in logged)
                )
            await become(supervisor.ready.is_set)
            assert supervisor.superlink.pid != first
            known = registry.lookup(card.node_key.encode())
            assert known is not None
            assert known.state == "admitted"

        asyncio.run(with_supervisor(tmp_path, store, survive))
