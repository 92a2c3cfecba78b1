"""A coordinator that sends faster than a site can work fills neither its memory nor its queue."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from client.daemon.request_queue import MOST_BYTES, MOST_WAITING, QueuedRequest, RequestQueue
from common.wire.messages import Request
from tests.client.daemon.quick_worker import HABITS
from tests.client.daemon.test_supervisor import QUICK, running
from tests.client.site_fixtures import Hospital
from tests.waiting import become

ASKED = 2 * MOST_WAITING


def job(number: int, size: int = 1) -> QueuedRequest:
    return QueuedRequest(f"{number:064}", "small", "ab" * 32, number, "train", number, bytes(size))


def test_there_is_room_for_so_many_and_again_when_half_are_done() -> None:
    hub = RequestQueue()
    for number in range(MOST_WAITING):
        assert hub.has_room()
        hub.arrive(job(number))
    assert not hub.has_room()
    while len(hub.waiting) >= MOST_WAITING // 2:
        assert not hub.has_room(again=True)
        taken = hub.take()
        assert taken is not None
        hub.answered(taken.message, "ok", b"")
    assert hub.has_room(again=True)


def test_a_few_large_ones_are_as_good_as_many() -> None:
    hub = RequestQueue()
    hub.arrive(job(1, MOST_BYTES // 2))
    assert hub.has_room()
    hub.arrive(job(2, MOST_BYTES // 2))
    assert not hub.has_room()


def test_replies_that_nobody_takes_leave_no_room_and_keep_no_request() -> None:
    """A coordinator may hand out requests without end, and refuse every reply."""
    hub = RequestQueue()
    for number in range(MOST_WAITING):
        assert hub.has_room()
        hub.arrive(job(number, size=1000))
        hub.take()
        assert hub.answered(number, "malformed", b"reply") is not None
        hub.send()
    assert not hub.has_room()
    assert hub.sending is not None
    held = [each.job.request for each in (*hub.outbox.values(), hub.sending)]
    assert held == [b""] * MOST_WAITING
    while hub.replies >= MOST_WAITING // 2:
        assert not hub.has_room(again=True)
        hub.pushed()
        hub.send()
    assert hub.has_room(again=True)


def test_large_replies_that_nobody_takes_leave_no_room_either() -> None:
    hub = RequestQueue()
    hub.arrive(job(1))
    hub.take()
    hub.answered(1, "ok", bytes(MOST_BYTES))
    assert not hub.has_room()


def test_a_flood_waits_at_the_coordinator_and_is_answered_in_the_end(tmp_path: Path) -> None:
    async def flood() -> None:
        hospital = Hospital(tmp_path, patients={"P00": 1, "P01": 1})
        hospital.state.mkdir(mode=0o700)
        (hospital.state / HABITS).write_text(json.dumps({"waits": str(tmp_path / "go")}))
        async with running(hospital, QUICK) as (supervisor, centre):
            for number in range(ASKED):
                centre.ask(Request("small", "ab" * 32, number + 1, "train"))
            most: list[int] = []

            def answered(fewest: int) -> bool:
                most.append(len(supervisor.requests.waiting))
                return len(centre.pushed) >= fewest

            await become(lambda: answered(0) and most[-1] >= MOST_WAITING, "a full queue")
            (tmp_path / "go").touch()
            await become(lambda: answered(ASKED), "the last answer")
            assert MOST_WAITING <= max(most) < MOST_WAITING + 8

    asyncio.run(flood())
