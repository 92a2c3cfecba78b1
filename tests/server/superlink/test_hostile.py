"""An admitted site that sends what is no reply is absent; the study goes on with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest
import structlog

from client.daemon.fleet import Fleet
from common.wire import flower
from common.wire.flower import Message, RecordDict, identify, message_from_objects
from common.wire.messages import Reply, Request, reply_to_record, request_from_record
from server.study.collect import UNREADABLE, Absence, answers
from server.study.dispatch import Dispatcher, Repeat, RetryPolicy
from server.superlink.grid import FleetGrid
from tests.network import Coordinator, coordinator
from tests.server.superlink.hostile import (
    FORGERS,
    Forger,
    array_of_arrays,
    nested,
    one_array_many_times,
    one_part_many_times,
    push,
)

REQUEST = Request("small", "", 1, "train", arrays=np.zeros(4, dtype=np.float32))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    folder = tmp_path_factory.mktemp("coordinator")
    with coordinator(folder, hold_seconds=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def grid(served: Coordinator) -> Iterator[FleetGrid]:
    line = served.line()
    grid = served.superlink.open_grid(served.superlink.start_run("study"), line)
    yield grid
    grid.finish()
    grid.close()
    line.close()


@pytest.fixture(scope="module")
def sites(
    served: Coordinator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, Fleet]]:
    pair = tuple(served.site(name, tmp_path_factory.mktemp(name)) for name in ("bad", "good"))
    for fleet in pair:
        fleet.connect()
    yield pair  # type: ignore[misc]
    for fleet in pair:
        fleet.close()


def received_by(fleet: Fleet) -> Message:
    message = None
    while message is None:
        message = fleet.pull()
    return message


def answer(fleet: Fleet, name: str) -> None:
    received = received_by(fleet)
    asked = request_from_record(received.content)
    reply = Reply(name, asked.identity, asked.study, asked.plan_hash, asked.round, asked.purpose)
    assert fleet.push(Message(reply_to_record(reply), reply_to=received))


@pytest.mark.parametrize("forger", FORGERS, ids=lambda forger: forger.__name__)
def test_what_cannot_be_read_costs_its_site_alone(
    grid: FleetGrid, sites: tuple[Fleet, Fleet], forger: Forger
) -> None:
    bad, good = sites

    def forge() -> None:
        received = received_by(bad)
        push(bad, received, forger(received))

    dispatcher = Dispatcher(
        grid,
        dict.fromkeys(("bad", "good"), REQUEST),
        timeout="20s",
        retries=RetryPolicy(wait=grid.wait, repeat=Repeat()),
    )
    with structlog.testing.capture_logs() as logged, ThreadPoolExecutor(2) as threads:
        done = [threads.submit(forge), threads.submit(answer, good, "good")]
        heard = dict(answers(dispatcher, most_weights=4))
        for each in done:
            each.result()
    assert heard["bad"] == Absence(UNREADABLE)
    assert isinstance(heard["good"], Reply)
    assert any(entry["event"].endswith(".unreadable") for entry in logged)


def test_however_deep_objects_are_nested_they_are_no_message() -> None:
    """Brought one by one they take a minute to go through the gateway, so here they do not."""
    identify(1)
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = "asked"
    parts = nested(asked, depth=5000)
    contents = {sha256(part).hexdigest(): part for part in parts}
    with pytest.raises(ValueError, match="RecursionError"):
        message_from_objects(sha256(parts[-1]).hexdigest(), contents)


@pytest.mark.parametrize(
    ("forger", "size"),
    [(one_part_many_times, 64), (one_array_many_times, 64), (array_of_arrays, 3)],
    ids=["parts", "arrays", "arrays of arrays"],
)
def test_what_grows_by_naming_its_parts_often_is_no_message(
    forger: Callable[[Message, int], list[bytes]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These would grow to some megabytes; the sites' are of the same make and larger."""
    monkeypatch.setattr(flower, "LARGEST_REPEATED", 2**23)
    identify(1)
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = "asked"
    parts = forger(asked, size)
    contents = {sha256(part).hexdigest(): part for part in parts}
    with pytest.raises(ValueError, match="not a message"):
        message_from_objects(sha256(parts[-1]).hexdigest(), contents)
