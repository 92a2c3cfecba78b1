"""Two real processes, a real line, and a supervisor that keeps them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from client.daemon.metrics import Metrics
from client.daemon.supervisor import Place, Programs, Supervisor
from client.sitefile import load_site_file
from common.enrolment import CoordinatorCard
from common.errors import RefusalCode
from common.flower import Message, RecordDict
from common.messages import reply_from_record
from tests.client.daemon.standin import Coordinator, coordinator
from tests.client.site_fixtures import (
    SEED,
    Hospital,
    approved,
    asking,
    offer_request,
)
from tests.common.studies import small_study

PROGRAMS = Programs(connection="tests.client.daemon.standin")
STUDY = small_study()
LONG = small_study(training={"local_steps": 1500}, privacy={"mode": "none"})
LARGE = small_study(
    model={"name": "cnn", "widths": [64], "norm": "none", "pooling": "flatten"},
    data={"dataset": "chest-xray", "modalities": ["DX"], "image_size": [64, 64]},
)


def place(hospital: Hospital) -> Place:
    path = hospital.folder / "site.toml"
    card = CoordinatorCard.model_construct(name="centre", address="127.0.0.1:1")
    return Place(path, load_site_file(path), hospital.state, SEED, card)


@asynccontextmanager
async def running(
    hospital: Hospital, *, paused: bool = False
) -> AsyncIterator[tuple[Supervisor, Coordinator]]:
    with coordinator(hospital.state) as centre:
        supervisor = Supervisor(place(hospital), Metrics(), PROGRAMS)
        async with supervisor.running(paused=paused):
            yield supervisor, centre


async def until(condition: Callable[[], object], seconds: float = 40) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def as_async(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    def run(*, tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))  # type: ignore[arg-type]

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@as_async
async def test_a_request_is_answered_and_the_reply_pushed(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.open().close()
    async with running(hospital) as (supervisor, centre):
        message = centre.ask(offer_request(STUDY))
        await until(lambda: centre.pushed)

        assert centre.pushed[0].metadata.reply_to_message_id == message
        assert centre.replies()[0].code == "ok"
        await until(lambda: supervisor.work.state == "idle")
        assert supervisor.line.state == "online"
        assert supervisor.hub.replies == 0
        assert centre.asked[0] == "connect"
    assert centre.asked[-1] == "goodbye"


@as_async
async def test_a_worker_killed_in_its_work_costs_nothing(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, policy={"allow_no_privacy": True})
    with hospital.open() as site:
        plan = approved(site, LONG)
    async with running(hospital) as (supervisor, centre):
        centre.ask(asking(plan))
        await until(lambda: supervisor.work.state == "working")
        first = supervisor.worker.pid
        assert first is not None
        await until(lambda: hospital.rows("charges"))
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.worker_fault)
        assert supervisor.worker_fault is not None
        assert "killed" in supervisor.worker_fault.why
        await until(lambda: centre.pushed)

        assert centre.replies()[0].code == "ok"
        assert supervisor.worker.pid != first
        assert [row["round"] for row in hospital.rows("charges")] == [1]
        assert supervisor.worker_fault is None


@as_async
async def test_a_connection_killed_in_its_work_costs_nothing(tmp_path: Path) -> None:
    """Work goes on while the line is down; the reply goes out over the new one."""
    hospital = Hospital(tmp_path, policy={"allow_no_privacy": True})
    with hospital.open() as site:
        plan = approved(site, LONG)
    async with running(hospital) as (supervisor, centre):
        centre.ask(asking(plan))
        await until(lambda: supervisor.work.state == "working")
        worker, first = supervisor.worker.pid, supervisor.connection.pid
        assert first is not None
        centre.down = True
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.line.state == "offline")
        await until(lambda: supervisor.hub.replies == 1)
        assert not centre.pushed
        centre.down = False
        await until(lambda: centre.pushed)

        assert supervisor.worker.pid == worker
        assert centre.asked.count("connect") >= 2
        assert supervisor.line.state == "online"


@as_async
async def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    with hospital.open() as site:
        plan = approved(site, STUDY)
    os.environ["CONSILIUM_KILL_AT"] = "training.step:1"
    try:
        with structlog.testing.capture_logs() as events:
            async with running(hospital) as (supervisor, centre):
                centre.ask(asking(plan))
                await until(lambda: supervisor.dropped)
                centre.ask(offer_request(STUDY))
                await until(lambda: centre.pushed)
                assert supervisor.worker.restarts == 3
                assert supervisor.dropped == ["small round 1"]
    finally:
        del os.environ["CONSILIUM_KILL_AT"]
    assert [each["round"] for each in events if each["event"] == "request.dropped"] == [1]
    assert [each.purpose for each in centre.replies()] == ["offer"]


@as_async
async def test_the_same_request_asked_again_is_answered_once_to_the_newest(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, policy={"allow_no_privacy": True})
    with hospital.open() as site:
        plan = approved(site, LONG)
    async with running(hospital) as (supervisor, centre):
        centre.ask(asking(plan))
        await until(lambda: supervisor.work.state == "working")
        newest = [centre.ask(asking(plan)) for _ in range(2)][-1]
        await until(lambda: centre.pushed)
        await until(lambda: supervisor.work.state == "idle" and not supervisor.hub.waiting)

        assert [each.metadata.reply_to_message_id for each in centre.pushed] == [newest]
        assert len(hospital.rows("charges")) == 1


@as_async
async def test_a_paused_site_takes_nothing_and_seems_absent(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.open().close()
    async with running(hospital, paused=True) as (supervisor, centre):
        await until(lambda: supervisor.work.state == "idle")
        centre.ask(offer_request(STUDY))
        assert "pull" not in centre.asked
        supervisor.pause(False)
        await until(lambda: centre.pushed)
        supervisor.pause(True)
        await until(lambda: supervisor.line.state == "paused")
        assert centre.asked[-1] == "goodbye"
        centre.ask(offer_request(STUDY))
        supervisor.pause(False)
        await until(lambda: len(centre.pushed) == 2)


@as_async
async def test_a_study_that_is_stopped_ends_the_worker_that_is_at_it(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, policy={"allow_no_privacy": True})
    with hospital.open() as site:
        plan = approved(site, LONG)
    async with running(hospital) as (supervisor, centre):
        centre.ask(asking(plan))
        await until(lambda: supervisor.work.state == "working")
        before = supervisor.worker.pid

        assert supervisor.stop("small").worker

        await until(lambda: supervisor.work.state == "idle")
        assert supervisor.worker.pid != before
        assert supervisor.hub.working is None
        centre.ask(offer_request(STUDY))
        await until(lambda: centre.pushed)
        assert [each.purpose for each in centre.replies()] == ["offer"]


@as_async
async def test_no_byte_of_a_stopped_study_leaves_after_a_second(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, policy={"max_epsilon_per_study": 50, "max_epsilon_total": 99})
    with hospital.open() as site:
        plan = approved(site, LARGE)
    async with running(hospital) as (supervisor, centre):
        await until(lambda: supervisor.line.state == "online")
        centre.rate = 20_000
        centre.ask(asking(plan))
        await until(lambda: centre.received > 5_000)
        assert supervisor.hub.sending is not None
        whole = len(supervisor.hub.sending.reply)
        before = supervisor.connection.pid
        centre.rate = 0

        assert supervisor.stop("small").connection

        await asyncio.sleep(1)
        after_a_second = centre.arrived()
        await until(lambda: supervisor.line.state == "online")
        await until(lambda: centre.arrived() == centre.received)
        assert centre.received <= after_a_second < whole / 2
        assert supervisor.connection.pid != before
        assert not centre.pushed
        assert supervisor.hub.replies == 0


@as_async
async def test_the_line_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.open().close()
    async with running(hospital) as (supervisor, centre):
        for refusal, state, word in (
            ("skewed", "skewed", "300 s ahead"),
            ("suspended", "refused", "suspended"),
        ):
            centre.refuse = refusal
            await until(lambda state=state: supervisor.line.state == state)  # type: ignore[misc]
            assert word in supervisor.line.why
            assert supervisor.line.remedy
        centre.refuse = ""
        await until(lambda: supervisor.line.state == "online", 70)


@as_async
async def test_a_bundle_with_code_is_refused_by_name_and_the_line_goes_on(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.open().close()
    with structlog.testing.capture_logs() as events:
        async with running(hospital) as (_, centre):
            centre.refuse = "foreign"
            await until(lambda: any(each["event"] == "bundle.refused" for each in events))
            centre.refuse = ""
            centre.ask(offer_request(STUDY))
            await until(lambda: centre.pushed)
            assert centre.asked.count("connect") == 1


@as_async
async def test_a_message_that_is_no_request_is_refused_by_a_code(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.open().close()
    async with running(hospital) as (_, centre):
        centre.send(Message(RecordDict(), dst_node_id=5, message_type="train"))
        await until(lambda: centre.pushed)
        centre.send(Message(RecordDict(), dst_node_id=5, message_type="train.unheard_of"))
        await until(lambda: len(centre.pushed) == 2)

        assert reply_from_record(centre.pushed[0].content).code == RefusalCode.MALFORMED
        assert centre.pushed[1].has_error()
        assert not centre.pushed[1].error.reason
