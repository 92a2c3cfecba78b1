"""The grid in this process behaves as Flower's does, with one client at a time."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from common.wire.flower import ConfigRecord, Context, Message, RecordDict, context
from simulations.grids.in_process import LocalGrid

NAMES = {11: "north", 12: "south", 13: "west"}


class Clients:
    """A client app that remembers which sites ran, and fails at one."""

    def __init__(self, failing: str = "") -> None:
        self.ran: list[str] = []
        self.failing = failing

    def __call__(self, message: Message, site: Context) -> Message:
        name = str(site.node_config["site"])
        self.ran.append(name)
        if name == self.failing:
            raise RuntimeError("PATIENT-7 has no image")
        return Message(RecordDict({"seen": message.content["body"]}), reply_to=message)


def grid_of(clients: Clients, order: list[str] | None = None) -> LocalGrid:
    sites = {
        node_id: (name, context(1, node_id, node={"site": name}, run={}))
        for node_id, name in NAMES.items()
    }
    return LocalGrid(clients, sites, order=order)


def message(node_id: int) -> Message:
    return Message(RecordDict({"body": ConfigRecord({"n": node_id})}), node_id, "train")


def test_a_client_runs_when_its_reply_is_pulled_and_not_before() -> None:
    clients = Clients()
    grid = grid_of(clients)
    first, second = grid.push_messages([message(11), message(12)])
    assert clients.ran == []
    (reply,) = grid.pull_messages([second])
    assert clients.ran == ["south"]
    assert reply.metadata.reply_to_message_id == second
    assert reply.metadata.src_node_id == 12
    list(grid.pull_messages([first]))
    assert clients.ran == ["south", "north"]


def test_a_pull_is_destructive_and_unknown_ids_give_nothing() -> None:
    grid = grid_of(Clients())
    ids = list(grid.push_messages([message(11)]))
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages([*ids, "never pushed"])) == []


def test_content_is_shared_and_not_copied() -> None:
    grid = grid_of(Clients())
    request = message(11)
    (reply,) = grid.send_and_receive([request])
    assert reply.content["seen"] is request.content["body"]


def test_sites_are_listed_in_the_order_asked_for_with_their_names() -> None:
    grid = grid_of(Clients(), order=["west", "north", "south"])
    assert [(node.node_id, node.name) for node in grid.get_nodes()] == [
        (13, "west"),
        (11, "north"),
        (12, "south"),
    ]
    assert list(grid.get_node_ids()) == [13, 11, 12]


def test_an_order_that_misses_a_site_is_refused() -> None:
    with pytest.raises(ValueError, match="every site once"):
        grid_of(Clients(), order=["west", "north"])


def test_a_client_that_fails_gives_an_error_without_text() -> None:
    grid = grid_of(Clients(failing="south"))
    with capture_logs() as logs:
        (reply,) = grid.send_and_receive([message(12)])
    assert reply.has_error()
    assert not reply.error.reason
    assert "PATIENT" not in str(logs)
    assert [entry["error"] for entry in logs] == ["RuntimeError"]


def test_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no node 99"):
        grid_of(Clients()).push_messages([message(99)])
