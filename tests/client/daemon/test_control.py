"""What a person decides at a running daemon, as the terminal and the coordinator show it."""

from __future__ import annotations

import asyncio
import os
import pty
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.cli.commands import daemon as asked_of
from client.daemon.control import SiteControl
from client.daemon.executor import SiteExecutor
from client.daemon.metrics import DaemonMetrics
from client.daemon.supervisor import Supervisor
from client.records import audit_log
from client.records.approvals import NEWEST_TIME
from client.sitefile import Programs, served_site
from common.control import site_pb2 as pb
from common.errors import RefusalCode, SiteError
from common.plan import Plan
from common.wire.messages import Request
from tests.client.daemon.process import REAL, ROOT, Daemon, daemon
from tests.client.daemon.standin import Coordinator, coordinator
from tests.client.site_fixtures import SEED, Hospital, asking, offer_request, plan_for, proposal
from tests.common.studies import small_study
from tests.waiting import PATIENCE, until


@dataclass(frozen=True)
class World:
    """A site whose daemon runs, and a coordinator that asks it."""

    hospital: Hospital
    centre: Coordinator
    site: Daemon

    def plan(self, name: str, title: str = "As it was shown") -> Plan:
        with self.hospital.open() as site:
            return plan_for(site, small_study(study={"name": name, "title": title}))

    def proposed(self, name: str, title: str = "As it was shown") -> Plan:
        """A plan that waits for a person."""
        plan = self.plan(name, title)
        assert self.code(proposal(plan)) == RefusalCode.PENDING
        return plan

    def running(self, name: str) -> Plan:
        """A plan that a person has approved."""
        plan = self.proposed(name)
        self.site.ask("approve", name, "--hash", plan.hash, "--yes")
        return plan

    def answers_nothing(self, request: Request) -> bool:
        """Whether a question that is asked after a request is answered before it."""
        before = len(self.centre.pushed)
        self.centre.ask(request)
        self.centre.ask(offer_request(small_study(study={"name": "later"})))
        until(lambda: len(self.centre.pushed) > before)
        return self.centre.replies()[before].study == "later"

    def code(self, request: Request) -> str:
        """The code of the answer to one request."""
        before = len(self.centre.pushed)
        self.centre.ask(request)
        until(lambda: len(self.centre.pushed) > before)
        return self.centre.replies()[-1].code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("north")
    patients = {f"P{number:02}": 1 for number in range(12)}
    hospital = Hospital(folder, patients, policy={"approval": "ask"})
    hospital.open().close()
    with (
        coordinator(hospital.state) as centre,
        daemon(folder / "site.toml", worker=REAL, seed=SEED) as site,
    ):
        yield World(hospital, centre, site)


@dataclass
class Person:
    """A command whose standard input is a terminal."""

    process: subprocess.Popen[bytes]
    keyboard: int
    seen: bytearray = field(default_factory=bytearray)

    def reads(self, end: bytes) -> str:
        """What stands there when the command has said ``end``."""
        assert self.process.stdout is not None
        while end not in self.seen and (more := os.read(self.process.stdout.fileno(), 4096)):
            self.seen += more
        assert end in self.seen, self.seen
        return self.seen.decode()

    def says(self, answer: str) -> int:
        """Answer; gives the command's exit code."""
        os.write(self.keyboard, f"{answer}\n".encode())
        return self.process.wait(PATIENCE)


@contextmanager
def person(site: Daemon, *arguments: str) -> Iterator[Person]:
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "client.cli.app", "--site", str(site.site_file), *arguments],
        cwd=ROOT,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        yield Person(process, keyboard)
        process.kill()
    os.close(keyboard)
    os.close(terminal)


def test_a_plan_that_was_proposed_after_another_was_shown_is_not_approved_for_it(
    world: World,
) -> None:
    read = world.proposed("shown")
    assert read.hash in world.site.ask("show", "shown")
    later = world.proposed("shown", "As nobody has read it")
    for refused in (
        world.site.ask("approve", "shown", "--yes", code=2),
        world.site.ask("show", "shown", code=2),
    ):
        assert "several plans of this name" in refused
        assert read.hash in refused
        assert later.hash in refused
    world.site.ask("approve", "shown", "--hash", read.hash[:12], "--yes")
    assert world.code(proposal(read)) == "ok"
    assert world.code(asking(later)) == RefusalCode.PENDING


def test_nor_for_one_that_was_taken_back_meanwhile(world: World) -> None:
    read = world.proposed("back")
    assert read.hash in world.site.ask("show", "back")
    assert world.code(Request("back", read.hash, 0, "close")) == "ok"
    later = world.proposed("back", "As nobody has read it")
    assert "without being read" in world.site.ask("approve", "back", "--yes", code=2)
    assert world.code(asking(later)) == RefusalCode.PENDING


def test_an_approval_that_names_no_hash_is_refused(world: World) -> None:
    plan = world.proposed("nameless")
    with pytest.raises(SiteError, match="names its hash"), asked_of(world.site.site_file) as asked:
        asked.Approve(pb.ApproveRequest(study="nameless", by="a program"))
    assert world.code(asking(plan)) == RefusalCode.PENDING


def test_what_stands_on_the_terminal_is_what_is_approved(world: World) -> None:
    """Whatever is proposed between the reading and the answer."""
    read = world.proposed("asked")
    with person(world.site, "approve", "asked") as administrator:
        text = administrator.reads(b"[y/N]")
        assert read.hash in text
        assert "What leaves this site" in text
        later = world.proposed("asked", "As nobody has read it")
        assert administrator.says("y") == 0
    assert world.code(proposal(read)) == "ok"
    assert world.code(asking(later)) == RefusalCode.PENDING


def test_the_coordinator_is_told_of_a_plan_that_is_denied(world: World) -> None:
    """It is made to ask again at once, as after an approval."""
    plan = world.proposed("denied")
    connected = world.centre.asked.count("connect")
    assert "denied is denied" in world.site.ask("deny", "denied")
    until(lambda: world.centre.asked.count("connect") > connected)
    assert world.code(proposal(plan)) == RefusalCode.DENIED


def test_who_approves_what_a_person_has_ended_is_told_and_asked_again(world: World) -> None:
    plan = world.proposed("ended")
    world.site.ask("deny", "ended")
    with person(world.site, "approve", "ended", "--hash", plan.hash) as administrator:
        assert "ended was denied by " in administrator.reads(b"run again? [y/N]")
        assert administrator.says("n") == 2
    assert world.code(proposal(plan)) == RefusalCode.DENIED
    said = world.site.ask("approve", "ended", "--hash", plan.hash, "--yes")
    assert "Approved: ended" in said
    assert world.code(proposal(plan)) == "ok"


def test_nobody_is_told_of_a_plan_that_is_denied_after_it_was_approved(world: World) -> None:
    plan = world.running("late")
    assert world.code(asking(plan)) == "ok"
    assert "late is stopped" in world.site.ask("deny", "late")
    assert world.answers_nothing(proposal(plan))
    assert world.answers_nothing(asking(plan))


def test_no_stored_reply_leaves_while_stopping_waits_for_the_store(world: World) -> None:
    plan = world.running("busy")
    assert world.code(asking(plan)) == "ok"
    store = world.hospital.state / "site.sqlite"
    with ThreadPoolExecutor() as pool, closing(sqlite3.connect(store)) as other:
        # In a new minute a site writes the time down, and would wait for the lock: none comes.
        later = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
        with other:
            other.execute("UPDATE facts SET value = ? WHERE name = ?", (later, NEWEST_TIME))
        other.execute("BEGIN IMMEDIATE")
        stopping = pool.submit(world.site.ask, "stop", "busy")
        until(lambda: [e for e in world.site.events("study.stopping") if e["study"] == "busy"])
        silent = world.answers_nothing(asking(plan))
        other.rollback()
        assert "busy is stopped" in stopping.result()
    assert silent


def test_what_could_not_be_stopped_is_answered_as_before(world: World) -> None:
    plan = world.proposed("waits")
    assert "does not run" in world.site.ask("stop", "waits", code=2)
    assert world.code(proposal(plan)) == RefusalCode.PENDING


def test_an_approval_that_expires_while_the_daemon_runs_ends_in_silence(world: World) -> None:
    plan = world.proposed("expiring")
    world.site.ask("approve", "expiring", "--hash", plan.hash, "--days", "1", "--yes")
    assert world.code(asking(plan)) == "ok"
    with closing(sqlite3.connect(world.hospital.state / "site.sqlite")) as store, store:
        store.execute(
            "UPDATE approvals SET expires_at = '2020-01-01T00:00:00Z' WHERE plan_hash = ?",
            (plan.hash,),
        )
    for request in (asking(plan), asking(plan, 2)):
        assert world.answers_nothing(request)
    silent = [each for each in audit_log.entries(world.hospital.state) if "why" in each.fields][-2:]
    assert [(each.event, each.fields["study"], each.fields["why"]) for each in silent] == [
        ("message.silence", "expiring", "expired")
    ] * 2


def test_an_opt_out_waits_for_no_approval(tmp_path: Path) -> None:
    """Which may read images for many minutes."""
    hospital = Hospital(tmp_path, {"P01": 1, "P02": 1})
    hospital.open().close()

    async def opt_out() -> pb.OptOutReply:
        place, approved = served_site(tmp_path / "site.toml", SEED), threading.Event()
        keys = (place.path, place.state, SEED)
        quick, slow = SiteExecutor(*keys, keep_open=True), SiteExecutor(*keys, keep_open=False)
        control = SiteControl(
            Supervisor(place, DaemonMetrics(), Programs()), quick, slow, chain="whole"
        )
        approving = asyncio.ensure_future(slow.ask(lambda _: approved.wait(PATIENCE)))
        asked = control.OptOut(pb.OptOutRequest(patients=["P01"], by="a person"), None)
        try:
            return await asyncio.wait_for(asked, PATIENCE)
        finally:
            approved.set()
            await approving
            assert quick.close(PATIENCE)
            assert slow.close(PATIENCE)

    assert asyncio.run(opt_out()).added == 1
