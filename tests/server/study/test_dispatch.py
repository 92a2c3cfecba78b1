"""Every site that was asked is heard once, or its absence has a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.wire.flower import (
    Context,
    Error,
    ErrorCode,
    Message,
    context,
)
from common.wire.messages import Request
from server.study.collect import Absence, answers
from server.study.dispatch import Dispatcher, Repeat, RetryPolicy, StudyHistory
from simulations.grids.in_process import LocalGrid

# isort: split
from flwr.proto.node_pb2 import NodeInfo

if TYPE_CHECKING:
    from tests.server.conftest import World

REQUEST = Request("small", "", 1, "train", arrays=np.zeros(4, dtype=np.float32))


def answering(grid: LocalGrid, *sites: str, timeout: str = "0.1s") -> dict[str, str]:
    """What each site said: its round, or the reason for its absence."""
    return said(Dispatcher(grid, dict.fromkeys(sites, REQUEST), timeout=timeout))


def said(dispatcher: Dispatcher) -> dict[str, str]:
    return {
        site: answer.reason if isinstance(answer, Absence) else f"round {answer.round}"
        for site, answer in answers(dispatcher, most_weights=4)
    }


def test_each_is_heard_in_the_order_of_the_grid(world: World) -> None:
    grid = world.grid(order=["west", "north", "south"])
    heard = answering(grid, "north", "south", "west")
    assert list(heard.items()) == [
        ("west", "round 1"),
        ("north", "round 1"),
        ("south", "round 1"),
    ]


def test_a_site_that_is_not_there_is_not_waited_for(world: World) -> None:
    heard = answering(world.grid(), "north", "elsewhere", timeout="30m")
    assert heard == {"elsewhere": "not connected", "north": "round 1"}


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
    heard = answering(Slow(world.client(), sites), "north", "south")
    assert heard == {"north": "round 1", "south": "no reply in 0.1s"}


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
    heard = answering(world.grid(), "north", "south", "west", timeout="0s")
    assert set(heard.values()) == {"round 1"}


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


class Lossy(LocalGrid):
    """A grid like Flower's over a network, and its own time, which goes by as it is waited for.

    Attributes:
        connected: sites whose nodes are online, and since when.
        loses: pulls that a site's requests are lost for, by site.
        pushed: the site of every message, in the order of pushing.
        clock: seconds that were waited; the asking's clock.
        later: what happens after so many seconds.
    """

    def __init__(self, client: object, names: Iterable[str]) -> None:
        sites = {
            number: (name, context(1, number, node={"site": name}, run={}))
            for number, name in enumerate(names, start=1)
        }
        super().__init__(client, sites)  # type: ignore[arg-type]
        self.connected = dict.fromkeys(names, "0")
        self.loses: dict[str, int] = {}
        self.pushed: list[str] = []
        self.clock = 0.0
        self.later: dict[float, Callable[[], None]] = {}
        self._to: dict[str, str] = {}

    def get_nodes(self) -> list[NodeInfo]:
        nodes = list(super().get_nodes())
        for node in nodes:
            node.last_activated_at = self.connected.get(node.name, "")
        return [node for node in nodes if node.name in self.connected]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        names = {node.node_id: node.name for node in super().get_nodes()}
        ids = list(super().push_messages(messages))
        for message, message_id in zip(messages, ids, strict=True):
            self._to[message_id] = names[message.metadata.dst_node_id]
            self.pushed.append(self._to[message_id])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        (message_id,) = message_ids
        site = self._to[message_id]
        if self.loses.get(site, 0) or site not in self.connected:
            return []
        return list(super().pull_messages([message_id]))

    def wait(self, seconds: float) -> None:
        self.clock += seconds
        for moment in [moment for moment in self.later if moment <= self.clock]:
            self.later.pop(moment)()

    @property
    def retries(self) -> RetryPolicy:
        """Those of a network, on the grid's own time."""
        return RetryPolicy(wait=self.wait, clock=lambda: self.clock, repeat=Repeat())


@pytest.fixture
def lossy(world: World) -> Callable[..., Lossy]:
    """Makes the grid to sites of those names."""

    def make(*names: str, client: object = None) -> Lossy:
        return Lossy(client or world.client(), names)

    return make


def over(
    grid: Lossy, *sites: str, timeout: str = "20s", memory: StudyHistory | None = None
) -> dict[str, str]:
    return said(
        Dispatcher(
            grid,
            dict.fromkeys(sites, REQUEST),
            timeout=timeout,
            retries=grid.retries,
            memory=memory,
        )
    )


def test_over_a_network_a_site_that_is_not_connected_is_waited_for(
    lossy: Callable[..., Lossy],
) -> None:
    grid = lossy("north", "south")
    del grid.connected["south"]
    grid.later[5.0] = lambda: grid.connected.update(south="5")
    assert over(grid, "north", "south") == {"north": "round 1", "south": "round 1"}
    assert grid.pushed == ["north", "south"]


def test_who_never_comes_is_absent_at_the_end_of_the_time(lossy: Callable[..., Lossy]) -> None:
    grid = lossy("north", "south")
    del grid.connected["south"]
    heard = over(grid, "north", "south", timeout="20s")
    assert heard == {"north": "round 1", "south": "not connected"}
    assert grid.clock == 20.0


def test_a_request_is_sent_again_at_once_when_the_node_was_activated_anew(
    lossy: Callable[..., Lossy],
) -> None:
    grid = lossy("north")
    grid.loses["north"] = 1

    def come_back() -> None:
        grid.connected["north"] = "2"
        grid.loses.clear()

    grid.later[2.0] = come_back
    assert over(grid, "north") == {"north": "round 1"}
    assert grid.pushed == ["north"] * 2
    assert grid.clock == 2.0


def test_after_a_silence_that_doubles_a_request_is_sent_again(
    lossy: Callable[..., Lossy],
) -> None:
    grid = lossy("north")
    grid.loses["north"] = 1
    assert over(grid, "north", timeout="500s") == {"north": "no reply in 500s"}
    assert len(grid.pushed) == 4  # after 0, 60, 180 and 420 s


def test_the_same_request_goes_out_again_and_what_is_late_is_dropped(
    world: World, lossy: Callable[..., Lossy]
) -> None:
    grid = lossy("north", "south")
    grid.loses["south"] = 1
    memory = StudyHistory()
    assert over(grid, "south", timeout="100s", memory=memory) == {"south": "no reply in 100s"}
    assert len(memory.strays) == 2
    grid.loses.clear()
    assert over(grid, "north", memory=memory) == {"north": "round 1"}
    assert memory.strays == {}
    assert [site for site, _ in world.asked] == ["north", "south", "south"]
    assert len({request.identity for _, request in world.asked}) == 1


def test_what_flower_lost_is_asked_for_again(world: World, lossy: Callable[..., Lossy]) -> None:
    """Pulling for a node that went offline destroys the request and gives an error."""
    client, errors = world.client(), iter([ErrorCode.NODE_UNAVAILABLE] * 2)

    def unsteady(message: Message, node: Context) -> Message:
        code = next(errors, None)
        if code is not None:
            return Message(Error(code=code, reason=""), reply_to=message)
        return client(message, node)

    grid = lossy("north", client=unsteady)
    assert over(grid, "north", timeout="30m") == {"north": "round 1"}
    assert grid.pushed == ["north"] * 3


def test_who_is_silent_is_waited_for_ever_shorter_until_it_is_back(
    lossy: Callable[..., Lossy],
) -> None:
    grid, memory = lossy("north"), StudyHistory()
    grid.loses["north"] = 1
    for _ in range(2):
        over(grid, "north", timeout="20s", memory=memory)
    assert memory.timeouts.seconds("north", 1800) == 450
    grid.connected["north"] = "2"
    grid.loses.clear()
    assert over(grid, "north", memory=memory) == {"north": "round 1"}
    assert memory.timeouts.seconds("north", 1800) == 1800


def test_a_site_that_was_put_off_is_asked_until_it_says(lossy: Callable[..., Lossy]) -> None:
    grid = lossy("north", "south")
    requests = dict.fromkeys(("north", "south"), REQUEST)
    dispatcher = Dispatcher(grid, requests, timeout="1s", retries=grid.retries)
    heard = []
    for site, _ in answers(dispatcher, most_weights=4):
        heard.append(site)
        if heard.count("north") < 4 and site == "north":
            dispatcher.put_off(site, until=grid.clock + 60, pause=10, reason="undecided")
    assert sorted(heard) == ["north"] * 4 + ["south"]
    assert grid.clock == 30.0


def test_a_site_that_never_says_is_absent_for_that_reason(lossy: Callable[..., Lossy]) -> None:
    grid = lossy("north")
    dispatcher = Dispatcher(grid, {"north": REQUEST}, timeout="20s", retries=grid.retries)
    heard = iter(answers(dispatcher, most_weights=4))
    next(heard)
    dispatcher.put_off("north", until=grid.clock, pause=100, reason="undecided")
    assert next(heard) == ("north", Absence("undecided"))
