"""Every site that was asked is heard once, or its absence has a reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.flower import (
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Message,
    RecordDict,
    context,
)
from common.messages import Reply, Request, reply_to_record, request_from_record
from server.asking import Absence, ask
from simulations.grid import LocalGrid

if TYPE_CHECKING:
    from tests.server.conftest import World

REQUEST = Request("small", "", 1, "train", arrays=np.zeros(4, dtype=np.float32))


def answering(grid: LocalGrid, *sites: str, timeout: str = "0.1s") -> dict[str, str]:
    """What each site said: its round, or the reason for its absence."""
    answers = ask(grid, dict.fromkeys(sites, REQUEST), timeout=timeout, most_weights=4)
    return {
        site: answer.reason if isinstance(answer, Absence) else f"round {answer.round}"
        for site, answer in answers
    }


def grid_with(client: object) -> LocalGrid:
    sites = {1: ("north", context(1, 1, node={}, run={}))}
    return LocalGrid(client, sites)  # type: ignore[arg-type]


def test_each_is_heard_in_the_order_of_the_grid(world: World) -> None:
    grid = world.grid(order=["west", "north", "south"])
    answers = answering(grid, "north", "south", "west")
    assert list(answers.items()) == [
        ("west", "round 1"),
        ("north", "round 1"),
        ("south", "round 1"),
    ]


def test_a_site_that_is_not_there_is_not_waited_for(world: World) -> None:
    answers = answering(world.grid(), "north", "elsewhere", timeout="30m")
    assert answers == {"elsewhere": "not connected", "north": "round 1"}


def test_a_site_that_nobody_asked_is_not_asked(world: World) -> None:
    answering(world.grid(), "north")
    assert [site for site, _ in world.asked] == ["north"]


def test_who_does_not_answer_in_time_is_absent(world: World) -> None:
    class Slow(LocalGrid):
        """A grid over which one site's reply never arrives."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = super().pull_messages(message_ids)
            return [reply for reply in replies if reply.metadata.src_node_id != 2]

    sites = {
        number: (name, context(1, number, node={"site": name}, run={}))
        for number, name in enumerate(("north", "south"), start=1)
    }
    answers = answering(Slow(world.client(), sites), "north", "south")
    assert answers == {"north": "round 1", "south": "no reply in 0.1s"}


def test_what_flower_does_not_take_is_an_absence(world: World) -> None:
    class Full(LocalGrid):
        """A grid that finds every message too large, as Flower's does."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return []

    grid = Full(world.client(), {1: ("north", context(1, 1, node={}, run={}))})
    expected = {"north": "the request could not be handed to Flower"}
    assert answering(grid, "north", timeout="30m") == expected


def test_even_with_no_time_left_every_reply_that_is_there_is_heard(world: World) -> None:
    """The sites of a simulation run one after the other, however long that takes."""
    answers = answering(world.grid(), "north", "south", "west", timeout="0s")
    assert set(answers.values()) == {"round 1"}


def test_the_weights_are_converted_once_and_shared() -> None:
    seen = []

    def client(message: Message, _node: Context) -> Message:
        seen.append(message.content["arrays"])
        return Message(Error(code=ErrorCode.UNKNOWN), reply_to=message)

    sites = {
        number: (name, context(1, number, node={}, run={}))
        for number, name in enumerate(("north", "south"), start=1)
    }
    answering(LocalGrid(client, sites), "north", "south")
    assert seen[0] is seen[1]


def test_flowers_errors_become_reasons() -> None:
    def offline(message: Message, _node: Context) -> Message:
        error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="never shown")
        return Message(error, reply_to=message)

    assert answering(grid_with(offline), "north") == {"north": "offline"}


def test_a_message_that_is_no_reply_is_an_absence() -> None:
    def rubbish(message: Message, _node: Context) -> Message:
        return Message(RecordDict({"fields": ConfigRecord({"n": 1})}), reply_to=message)

    expected = {"north": "sent something that is not a reply"}
    assert answering(grid_with(rubbish), "north") == expected


def test_an_array_longer_than_the_plan_foresees_is_not_read() -> None:
    def long(message: Message, _node: Context) -> Message:
        request = request_from_record(message.content)
        reply = Reply("north", request.identity, "small", "", 1, "train")
        return Message(
            reply_to_record(replace(reply, arrays=np.zeros(5, dtype=np.int32))), reply_to=message
        )

    expected = {"north": "sent something that is not a reply"}
    assert answering(grid_with(long), "north") == expected
