"""The processes of studies: begun again, whatever kept them from beginning."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import structlog

from common.process.ports import free_port
from common.wire.enrolment import SiteCard
from server.daemon.authority import init
from server.daemon.study_supervisor import StudySupervisor
from server.store import open_store
from tests.server.daemon.test_superlink_supervisor import card_of
from tests.waiting import become

FEW = 3
"""Files that a process may have open; no further one, and so no child."""


def test_a_study_without_room_for_its_process_gets_it_later(tmp_path: Path) -> None:
    home = init(tmp_path / "home", "demo", f"localhost:{free_port()}").home
    card: SiteCard = card_of("north", tmp_path)

    with open_store(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        store.admit(card)
        store.add_study("small", "never read", 0, ["north"])

        async def begin() -> None:
            ready = asyncio.Event()
            ready.set()
            conductors = StudySupervisor(home, store, free_port(), ready)
            await asyncio.to_thread(store.study, "small")  # its connection and thread are there
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with structlog.testing.capture_logs() as logged:
                resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
                try:
                    conductors.begin("small")
                    await become(lambda: "study.not-begun" in {e["event"] for e in logged})
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await become(lambda: "study.process" in {e["event"] for e in logged})
            await conductors.end_all()

        asyncio.run(begin())
