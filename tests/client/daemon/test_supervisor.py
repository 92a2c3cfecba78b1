"""Two real processes, a real line, and a supervisor that keeps them.

Where a test is about the hub, a quick worker stands in for one that imports torch; where it
is about work that must cost nothing, the worker is the site's own.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from client.consent.problems import Problem
from client.daemon.metrics import DaemonMetrics
from client.daemon.supervisor import Supervisor
from client.records import audit_log
from client.sitefile import Programs, ServedSite, load_site_file
from common.errors import RefusalCode
from common.wire.enrolment import CoordinatorCard
from common.wire.flower import Message, RecordDict
from common.wire.messages import Request, reply_from_record
from tests.client.daemon.quick_worker import HABITS
from tests.client.daemon.standin import Coordinator, coordinator
from tests.client.site_fixtures import SEED, Hospital, approved, asking, offer_request
from tests.common.studies import small_study, toml
from tests.waiting import alive, become

REAL = Programs(connection="tests.client.daemon.standin")
QUICK = Programs("tests.client.daemon.standin", "tests.client.daemon.quick_worker")
CARD = CoordinatorCard.model_construct(name="centre", address="127.0.0.1:1", ca="", signing_key="")
LONG = small_study(training={"local_steps": 600}, privacy={"mode": "none"})
WIDE = small_study(
    data={"dataset": "chest-xray", "modalities": ["DX"], "image_size": [1024, 1024]},
    model={"name": "cnn", "widths": [64], "norm": "none", "pooling": "average"},
    privacy={"mode": "none"},
)
REQUEST = Request("small", "a" * 64, 1, "train")
Test = Callable[[Path], Awaitable[None]]


def place(hospital: Hospital, **changes: object) -> ServedSite:
    path = hospital.folder / "site.toml"
    document = hospital.site_file()
    path.write_text(toml(document | {"device": {**document["device"], **changes}}))
    return ServedSite(path, load_site_file(path), hospital.state, SEED, CARD)


@asynccontextmanager
async def running(
    hospital: Hospital,
    programs: Programs = REAL,
    *,
    paused: bool = False,
    note: Callable[..., None] = lambda *_, **__: None,
    failed: list[Problem] | None = None,
    **device: object,
) -> AsyncIterator[tuple[Supervisor, Coordinator]]:
    with coordinator(hospital.state) as centre:
        keep = ([] if failed is None else failed).append
        supervisor = Supervisor(place(hospital, **device), DaemonMetrics(), programs, note, keep)
        async with supervisor.running(paused=paused):
            yield supervisor, centre


def in_a_loop(test: Test) -> Callable[[Path], None]:
    """Let pytest run a coroutine."""

    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))  # type: ignore[arg-type]

    return run


def habits(hospital: Hospital, **told: object) -> None:
    (hospital.state / HABITS).write_text(json.dumps(told))


def small(folder: Path) -> Hospital:
    """A hospital with hardly any image, for what does not look at them."""
    hospital = Hospital(folder, patients={"P00": 1, "P01": 1})
    hospital.state.mkdir(mode=0o700)
    return hospital


@in_a_loop
async def test_every_message_is_noted_and_what_has_a_type_is_answered(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    async with running(hospital) as (supervisor, centre):
        message = centre.ask(offer_request(small_study()))
        centre.send(Message(RecordDict(), dst_node_id=5, message_type="train.unheard_of"))
        centre.send(Message(RecordDict(), dst_node_id=5, message_type="train"))
        await become(lambda: len(centre.pushed) == 2)

        offer, malformed = centre.pushed
        assert offer.metadata.reply_to_message_id == message
        assert reply_from_record(offer.content).code == "ok"
        assert reply_from_record(malformed.content).code == RefusalCode.MALFORMED
        await become(lambda: supervisor.work.state == "idle" and not supervisor.requests.replies)
        assert supervisor.line.state == "online"
    assert centre.asked[0] == "connect"
    assert centre.asked[-1] == "goodbye"
    noted = [each.event for each in audit_log.entries(hospital.state)]
    assert (noted.count("site.started"), noted.count("site.stopped")) == (1, 1)  # the worker's
    assert [each for each in noted if each.startswith("message.")] == [
        *("message.in", "message.out"),
        *("message.in", "message.silence"),
        *("message.in", "message.out"),
    ]


@in_a_loop
async def test_what_is_no_message_is_noted_and_gets_silence(tmp_path: Path) -> None:
    hospital, noted = small(tmp_path), list[str]()
    async with running(hospital, QUICK, note=lambda *it, **_: noted.extend(it)) as (_, centre):
        centre.refuse = "unreadable"
        await become(lambda: noted[:2] == ["message.in", "message.silence"])
        assert not centre.pushed


@in_a_loop
async def test_a_worker_killed_in_its_work_costs_nothing(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, policy={"allow_no_privacy": True})
    with hospital.open() as site:
        plan = approved(site, LONG)
    failed: list[Problem] = []
    async with running(hospital, failed=failed) as (supervisor, centre):
        centre.ask(asking(plan))
        await become(lambda: supervisor.work.state == "working")
        first = supervisor.worker.pid
        assert first is not None
        await become(lambda: hospital.rows("charges"))
        os.kill(first, signal.SIGKILL)
        await become(lambda: supervisor.worker_fault)
        assert supervisor.worker_fault is not None
        assert "killed" in supervisor.worker_fault.why
        (kept,) = failed
        assert kept.told.startswith("small got no answer for round 1 at 20")
        assert kept.told.endswith(": the worker was killed")
        assert "memory_mib" in kept.remedy
        await become(lambda: centre.pushed)

        assert centre.replies()[0].code == "ok"
        assert supervisor.worker.pid != first
        assert [row["round"] for row in hospital.rows("charges")] == [1]
        assert supervisor.worker_fault is None


@in_a_loop
async def test_a_worker_that_needs_more_memory_than_allowed_says_so(tmp_path: Path) -> None:
    """It answers with no code: the remedy is named at the site, and nothing leaves."""
    hospital = Hospital(tmp_path, policy={"allow_no_privacy": True}, memory_mib=2048)
    with hospital.open() as site:
        plan = approved(site, WIDE)
    failed: list[Problem] = []
    async with running(hospital, memory_limit_mib=700, failed=failed) as (supervisor, centre):
        centre.ask(asking(plan))
        await become(lambda: supervisor.worker_fault)

        assert supervisor.worker_fault is not None
        assert "its limit of 700 MiB" in supervisor.worker_fault.why
        assert "memory_limit_mib" in supervisor.worker_fault.remedy
        assert failed[0].told.startswith("small got no answer for round 1 at 20")
        assert "its limit of 700 MiB" in failed[0].told
        assert failed[0].remedy == supervisor.worker_fault.remedy
        assert not centre.pushed


@in_a_loop
async def test_a_connection_killed_in_its_work_costs_nothing(tmp_path: Path) -> None:
    """Work goes on while the line is down; the reply goes out over the new one."""
    hospital, done = small(tmp_path), tmp_path / "done"
    habits(hospital, waits=str(done))
    async with running(hospital, QUICK) as (supervisor, centre):
        centre.ask(REQUEST)
        await become(lambda: supervisor.work.state == "working")
        worker, first = supervisor.worker.pid, supervisor.connection.pid
        assert first is not None
        centre.down = True
        os.kill(first, signal.SIGKILL)
        await become(lambda: supervisor.line.state == "offline")
        done.touch()
        await become(lambda: supervisor.requests.replies == 1)
        assert not centre.pushed
        centre.down = False
        await become(lambda: centre.pushed)

        assert supervisor.worker.pid == worker
        assert centre.asked.count("connect") >= 2
        await become(lambda: supervisor.line.state == "online")


@in_a_loop
async def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    hospital, failed = small(tmp_path), list[Problem]()
    habits(hospital, dies="deadly")
    with structlog.testing.capture_logs() as events:
        async with running(hospital, QUICK, failed=failed) as (supervisor, centre):
            centre.ask(Request("deadly", "", 0, "offer"))
            centre.ask(REQUEST)
            await become(lambda: centre.pushed)
            assert supervisor.worker.restarts == 3
            assert [each.study for each in failed] == ["deadly"] * 3
            assert "deadly got no answer for the offer at 20" in failed[-1].told
            assert "given up, because 3 workers ended at it; the last: " in failed[-1].told
            assert failed[-1].remedy
    dropped = [each for each in events if each["event"] == "request.dropped"]
    assert [each["study"] for each in dropped] == ["deadly"]
    assert [each.study for each in centre.replies()] == ["small"]


@in_a_loop
async def test_a_reply_that_nobody_waits_for_is_told_to_the_staff(tmp_path: Path) -> None:
    """To the coordinator the site was absent; the site itself thinks that it has answered."""
    hospital, failed = small(tmp_path), list[Problem]()
    async with running(hospital, QUICK, failed=failed) as (_, centre):
        centre.unwanted = True
        centre.ask(REQUEST)
        await become(lambda: failed)
    (kept,) = failed
    assert kept.told.startswith("small: the coordinator did not take the reply for round 1 at 20")
    assert "round_timeout" in kept.remedy


@in_a_loop
async def test_another_machine_with_the_same_keys_is_told_while_it_is_there(
    tmp_path: Path,
) -> None:
    hospital = small(tmp_path)
    async with running(hospital, QUICK) as (supervisor, centre):
        await become(lambda: supervisor.line.state == "online")
        assert not supervisor.line.remedy
        centre.twins = "2026-11-26T12:00:00Z"
        await become(lambda: supervisor.line.remedy)
        assert supervisor.line.state == "online"
        assert "two machines are connected as this site since 2026-11-26T12:00" in (
            supervisor.line.why
        )
        assert "stop the machine with fewer" in supervisor.line.remedy
        centre.twins = ""
        await become(lambda: not supervisor.line.remedy)
        assert supervisor.line.state == "online"


@in_a_loop
async def test_the_same_request_asked_again_is_answered_once_to_the_newest(tmp_path: Path) -> None:
    hospital, done = small(tmp_path), tmp_path / "done"
    habits(hospital, waits=str(done))
    async with running(hospital, QUICK) as (supervisor, centre):
        centre.ask(REQUEST)
        await become(lambda: supervisor.work.state == "working")
        newest = [centre.ask(REQUEST) for _ in range(2)][-1]
        await become(
            lambda: supervisor.requests.working and supervisor.requests.working.message == 3
        )
        done.touch()
        await become(lambda: centre.pushed)
        await become(lambda: supervisor.work.state == "idle" and not supervisor.requests.waiting)

        assert [each.metadata.reply_to_message_id for each in centre.pushed] == [newest]


@in_a_loop
async def test_a_paused_site_takes_nothing_and_seems_absent(tmp_path: Path) -> None:
    hospital = small(tmp_path)
    async with running(hospital, QUICK, paused=True) as (supervisor, centre):
        await become(lambda: supervisor.work.state == "idle")
        centre.ask(REQUEST)
        assert not centre.asked
        supervisor.pause(False)
        await become(lambda: centre.pushed)
        supervisor.pause(True)
        await become(lambda: supervisor.line.state == "paused")
        assert centre.asked[-1] == "goodbye"
        centre.ask(REQUEST)
        supervisor.pause(False)
        await become(lambda: len(centre.pushed) == 2)


@in_a_loop
async def test_a_study_that_is_stopped_ends_the_worker_that_is_at_it(tmp_path: Path) -> None:
    """Of what gets no answer, each request is noted."""
    hospital, noted = small(tmp_path), list[tuple[str, object]]()
    habits(hospital, waits=str(tmp_path / "never"))

    def note(event: str, **fields: object) -> None:
        noted.append((event, fields["round"]))

    async with running(hospital, QUICK, note=note) as (supervisor, centre):
        centre.ask(REQUEST)
        await become(lambda: supervisor.work.state == "working")
        centre.ask(replace(REQUEST, round=2))
        await become(lambda: supervisor.requests.waiting)
        before = supervisor.worker.pid
        habits(hospital)

        assert supervisor.stop("small").worker
        assert noted == [("message.silence", 1), ("message.silence", 2)]

        await become(lambda: supervisor.work.state == "idle")
        assert supervisor.worker.pid != before
        assert supervisor.requests.working is None
        centre.ask(Request("other", "b" * 64, 1, "train"))
        await become(lambda: centre.pushed)
        assert [each.study for each in centre.replies()] == ["other"]


@in_a_loop
async def test_no_byte_of_a_stopped_study_leaves_after_its_connection(
    tmp_path: Path,
) -> None:
    hospital = small(tmp_path)
    habits(hospital, bytes=20_000_000)
    async with running(hospital, QUICK) as (supervisor, centre):
        await become(lambda: supervisor.line.state == "online")
        centre.rate = 200_000
        centre.ask(REQUEST)
        await become(lambda: centre.received > 50_000)
        assert supervisor.requests.sending is not None
        before = supervisor.connection.pid
        centre.rate = 0

        assert supervisor.stop("small").connection

        await become(lambda: before is not None and not alive(before))
        after_its_end = centre.arrived()
        await become(lambda: supervisor.line.state == "online")
        await become(lambda: centre.arrived() == centre.received)
        assert centre.received <= after_its_end < 10_000_000
        assert supervisor.connection.pid != before
        assert not centre.pushed
        assert supervisor.requests.replies == 0


@in_a_loop
async def test_the_line_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    """And it is tried again until it is well."""
    hospital = small(tmp_path)
    with structlog.testing.capture_logs() as events:
        async with running(hospital, QUICK) as (supervisor, centre):
            for refusal, state, word in (
                ("skewed", "skewed", "300 s ahead"),
                ("suspended", "refused", "suspended"),
            ):
                centre.refuse = refusal
                await become(functools.partial(_is_in, supervisor, state))
                assert word in supervisor.line.why
                assert supervisor.line.remedy
            centre.refuse = "foreign"
            await become(lambda: any(each["event"] == "bundle.refused" for each in events))
            connected = centre.asked.count("connect")
            centre.refuse = ""
            centre.ask(REQUEST)
            await become(lambda: centre.pushed)
            assert centre.asked.count("connect") == connected


def _is_in(supervisor: Supervisor, state: str) -> bool:
    return supervisor.line.state == state


@in_a_loop
async def test_a_coordinator_that_was_never_reached_is_named_with_what_to_check(
    tmp_path: Path,
) -> None:
    hospital = small(tmp_path)
    with coordinator(hospital.state) as centre:
        centre.down = True
        supervisor = Supervisor(place(hospital), DaemonMetrics(), QUICK, lambda *_, **__: None)
        async with supervisor.running(paused=False):
            await become(lambda: supervisor.line.state == "offline")
            assert supervisor.line.why == f"{CARD.address} was never reached"
            assert "firewall" in supervisor.line.remedy
            centre.down = False
            await become(lambda: supervisor.line.state == "online")
            centre.down = True
            await become(lambda: supervisor.line.state == "offline")
            assert "never" not in supervisor.line.why


@in_a_loop
async def test_a_connection_that_cannot_read_its_files_says_which(tmp_path: Path) -> None:
    hospital = small(tmp_path)
    (hospital.state / "COORDINATOR.json").write_text("{}")
    real = Programs(worker="tests.client.daemon.quick_worker")
    async with running(hospital, real) as (supervisor, _):
        await become(lambda: supervisor.connection.restarts)
        assert "the format of the card" in supervisor.line.why
        assert supervisor.line.state == "restarting"
