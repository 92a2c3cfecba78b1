"""The grid over a real SuperLink: what it waits for, what it shares, what it survives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.daemon.fleet import Fleet
from common.errors import LinkError
from common.wire.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from server.superlink import grid as module
from server.superlink.grid import FleetGrid
from tests.network import Coordinator, coordinator, reply_to
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with coordinator(tmp_path_factory.mktemp("coordinator"), hold_seconds=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def grid(served: Coordinator) -> Iterator[FleetGrid]:
    line = served.line()
    grid = served.superlink.open_grid(served.superlink.start_run("study"), line)
    yield grid
    grid.finish()
    grid.close()
    line.close()


def request(node: int, values: list[int]) -> Message:
    array = Array(np.array(values, dtype=np.int32))
    return Message(RecordDict({"arrays": ArrayRecord({"x": array})}), node, "train")


def answer(fleet: Fleet) -> Message:
    received = None
    while received is None:
        received = fleet.pull()
    fleet.push(Message(received.content, reply_to=received))
    return received


def test_sites_are_known_by_name_and_key(
    served: Coordinator, grid: FleetGrid, tmp_path: Path
) -> None:
    fleet = served.site("named", tmp_path)
    assert "named" not in [node.name for node in grid.get_nodes()]
    fleet.connect()
    (node,) = [node for node in grid.get_nodes() if node.name == "named"]
    assert node.public_key in served.book.sites
    first = node.last_activated_at
    fleet.connect()
    (node,) = [node for node in grid.get_nodes() if node.name == "named"]
    assert node.last_activated_at > first
    fleet.close()
    assert "named" not in [node.name for node in grid.get_nodes()]


def test_a_reply_that_is_not_there_costs_nothing_and_is_not_waited_for(
    served: Coordinator, grid: FleetGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = served.site("slow", tmp_path)
    fleet.connect()
    monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    (message_id,) = grid.push_messages([request(fleet.node_id, [1])])
    calls: list[object] = []
    with monkeypatch.context() as counting:
        counting.setattr(grid._client, "PullMessages", calls.append)  # noqa: SLF001
        counting.setattr(grid._client, "GetNodes", calls.append)  # noqa: SLF001
        for _ in range(200):
            assert grid.pull_messages([message_id]) == []
    assert calls == []
    answer(fleet)
    assert reply_to(grid, message_id).content.array_records["arrays"]["x"].numpy().tolist() == [1]
    fleet.close()


def test_waiting_ends_when_a_reply_is_complete(
    served: Coordinator, grid: FleetGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else would end it within the hour."""
    fleet = served.site("prompt", tmp_path)
    fleet.connect()
    monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    (message_id,) = grid.push_messages([request(fleet.node_id, [2])])
    grid.wait(0.01)
    answering = threading.Timer(0.2, answer, [fleet])
    answering.start()
    begun = time.monotonic()
    while not (replies := list(grid.pull_messages([message_id]))):
        grid.wait(PATIENCE)
        assert time.monotonic() - begun < PATIENCE
    assert replies[0].has_content()
    answering.join(PATIENCE)  # the reply is here before its sender has read that it arrived
    fleet.close()


def test_the_request_of_an_absent_site_is_kept(
    served: Coordinator, grid: FleetGrid, tmp_path: Path
) -> None:
    """Flower would answer a pull for it, and throw the request away."""
    fleet = served.site("absent", tmp_path)
    fleet.connect()
    (message_id,) = grid.push_messages([request(fleet.node_id, [3])])
    fleet._deactivate(fleet.node_id)  # noqa: SLF001 - absent, its line still up
    grid.forget([])
    until(lambda: "absent" not in [node.name for node in grid.get_nodes()])
    grid._due[message_id] = 0.0  # noqa: SLF001 - as after POLL_SECONDS
    assert grid.pull_messages([message_id]) == []
    fleet.connect()
    answer(fleet)
    assert reply_to(grid, message_id).has_content()
    fleet.close()


def test_messages_of_a_round_share_their_array(
    served: Coordinator, grid: FleetGrid, tmp_path: Path
) -> None:
    fleets = [served.site(f"sharer-{number}", tmp_path) for number in range(3)]
    for fleet in fleets:
        fleet.connect()
    shared = ArrayRecord({"x": Array(np.arange(1000, dtype=np.float32))})
    messages = [
        Message(
            RecordDict({"arrays": shared, "c": ConfigRecord({"for": str(fleet.node_id)})}),
            fleet.node_id,
            "train",
        )
        for fleet in fleets
    ]
    ids = list(grid.push_messages(messages))
    for fleet in fleets:
        received = answer(fleet)
        assert received.content.config_records["c"]["for"] == str(fleet.node_id)
    for message_id in ids:
        assert (
            reply_to(grid, message_id).content.array_records["arrays"]["x"].numpy().sum()
            == 999 * 500
        )
    for fleet in fleets:
        fleet.close()


def test_a_reply_that_broke_off_does_not_hold_up_the_others(
    served: Coordinator, grid: FleetGrid, tmp_path: Path
) -> None:
    broken, whole = served.site("broken", tmp_path), served.site("whole", tmp_path)
    broken.connect()
    whole.connect()
    first, second = grid.push_messages([request(broken.node_id, [4]), request(whole.node_id, [5])])
    received = broken.pull()
    assert received is not None
    large = RecordDict({"x": ArrayRecord({"x": Array(np.zeros(2**23, dtype=np.float32))})})
    served.gateway.expect_updates([2**20])  # so that its last parts are refused
    with pytest.raises(LinkError):
        broken.push(Message(large, reply_to=received))
    served.gateway.expect_updates([2**26])
    answer(whole)
    grid._due[first] = 0.0  # noqa: SLF001 - as after POLL_SECONDS
    assert grid.pull_messages([first]) == []
    assert reply_to(grid, second).has_content()
    broken.connect()
    (again,) = grid.push_messages([request(broken.node_id, [4])])
    answer(broken)
    assert reply_to(grid, again).content.array_records["arrays"]["x"].numpy().tolist() == [4]
    grid.forget([first])
    broken.close()
    whole.close()


def test_when_the_superlink_is_gone_every_call_says_so(tmp_path: Path) -> None:
    with coordinator(tmp_path) as served:
        line = served.line()
        grid = served.superlink.open_grid(served.superlink.start_run("study"), line)
        served.superlink.stop()
        with pytest.raises(LinkError, match="lost"):
            grid.get_nodes()
        with pytest.raises(LinkError, match="lost"):
            grid.push_messages([request(7, [1])])
        with pytest.raises(LinkError, match="lost"):
            grid.pull_messages(["ab" * 32])
        with pytest.raises(LinkError, match="lost"):
            grid.finish()
        grid.close()
        line.close()


def test_without_notifications_replies_are_looked_for(served: Coordinator, tmp_path: Path) -> None:
    other = served.superlink.start_run("other")
    grid = served.superlink.open_grid(other, None)
    fleet = served.site("polled", tmp_path)
    fleet.connect()
    (message_id,) = grid.push_messages([request(fleet.node_id, [6])])
    answer(fleet)
    assert reply_to(grid, message_id).has_content()
    grid.finish()
    grid.close()
    fleet.close()
