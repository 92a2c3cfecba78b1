"""Sending requests to sites, and sending them again where they may have been lost.

All requests of a round are pushed at once and share one copy of the weights. Flower never
repeats a request, and over a network it may lose one: a request counts as delivered once it was
pulled, and pulling the reply of a site that went offline destroys the request. So a request may
be sent again as a new message. Its content is the same, and so is its identity: the site answers
with the same bytes and charges nothing twice. It is sent again at once when the site's node was
activated again, and otherwise after a pause that doubles. A reply to any of these messages
answers the request; :mod:`server.study.collect` takes it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from common.bounded import seconds
from common.wire.flower import Message, RecordDict
from common.wire.messages import Purpose, Request, request_to_record
from server.study.timeouts import ReplyTimeouts

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

MESSAGE_TYPES: Final[dict[Purpose, str]] = {
    "offer": "query.offer",
    "propose": "query.propose",
    "amend": "query.amend",
    "provide": "query.provide",
    "train": "train",
    "evaluate": "evaluate",
    "close": "query.close",
}
POLL_SECONDS: Final = 0.25
"""How long to wait after looking at every request without finding a reply."""
# Flower's default of 12 h is shorter than an approval may take. Flower 1.41 accepts 30 days; the
# round's own time-out ends the waiting.
TTL_SECONDS: Final = 30 * 86400.0
MOST_STRAYS: Final = 64
"""Messages that are still looked for after their request was answered: a reply to one of them
would otherwise stay in the SuperLink's memory until the study ends."""
NOT_CONNECTED: Final = "not connected"
NOT_SENT: Final = "the request could not be handed to Flower"


@dataclass(frozen=True)
class Repeat:
    """How a request is sent again over a grid that may lose it.

    Attributes:
        silence: seconds after which a request is sent again; the next time it is twice
            as long.
        look: seconds between two looks at which sites are connected.
    """

    silence: float = 60.0
    look: float = 2.0


@dataclass(frozen=True)
class RetryPolicy:
    """What differs between a simulation, which loses nothing, and a network.

    Attributes:
        wait: pauses for at most a number of seconds; over a network, until a reply is complete.
        clock: the seconds that deadlines are measured in.
        repeat: how requests are sent again; None where nothing is lost, and where a site
            that is not connected need not be waited for.
        poll_seconds: pause after looking at every request without finding a reply.
    """

    wait: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    repeat: Repeat | None = None
    poll_seconds: float = POLL_SECONDS


SIMULATION: Final = RetryPolicy()


@dataclass
class StudyHistory:
    """What is remembered from one question of a study to the next.

    Attributes:
        strays: messages whose request was answered or given up, the oldest first.
        timeouts: how long each site is waited for.
    """

    strays: dict[str, None] = field(default_factory=dict)
    timeouts: ReplyTimeouts = field(default_factory=ReplyTimeouts)


@dataclass
class _Sent:
    """How far one site's request has come."""

    request: Request
    deadline: float
    late: str
    silence: float
    growth: int = 2
    again: float = 0.0
    connected: bool = False
    activated: str | None = None
    lost: str = NOT_SENT
    began: float | None = None
    messages: set[str] = field(default_factory=set)

    @property
    def reason(self) -> str:
        """Why the site is absent if it does not answer."""
        if not self.connected:
            return NOT_CONNECTED
        return self.late if self.messages else self.lost

    def is_due(self, activated: str, now: float) -> bool:
        """Whether to send the request, again or for the first time."""
        return now >= self.again or activated != self.activated


class Dispatcher:
    """Sends one question to several sites, until each has answered or its time is over.

    Args:
        grid: how messages travel.
        requests: what each site is asked; all carry the same array, or none.
        timeout: how long to wait for replies, as ``30m``.
        retries: a simulation's, or a network's.
        memory: of the study's earlier requests; it changes.
        awaited: called once with each site that is waited for because it is not connected.
    """

    def __init__(
        self,
        grid: Grid,
        requests: Mapping[str, Request],
        *,
        timeout: str,
        retries: RetryPolicy = SIMULATION,
        memory: StudyHistory | None = None,
        awaited: Callable[[str], None] = lambda site: None,
    ) -> None:
        self.grid, self.retries = grid, retries
        self._repeat = retries.repeat
        self._awaited = awaited
        self._memory = memory or StudyHistory()
        self._strays, self._timeout = self._memory.strays, seconds(timeout)
        silence = self._repeat.silence if self._repeat else 0.0
        late = f"no reply in {timeout}"
        self._open = {
            site: _Sent(request, self._deadline(site), late, silence)
            for site, request in requests.items()
        }
        self._closed: dict[str, _Sent] = {}
        self._site_of: dict[str, str] = {}
        self._look_at = -math.inf

    @property
    def deadline(self) -> float | None:
        """When the next site is given up; None once all have answered or were given up."""
        return min((sent.deadline for sent in self._open.values()), default=None)

    @property
    def messages(self) -> list[str]:
        """Every message whose reply may still come, also where the request was answered."""
        return [*self._site_of, *self._strays]

    def send(self, now: float) -> None:
        """Send what is due; over a grid that loses nothing all of it, once."""
        if now < self._look_at:
            return
        first = self._look_at == -math.inf
        # A simulation's grid has all its sites from the beginning: one look is enough.
        self._look_at = math.inf if self._repeat is None else now + self._repeat.look
        nodes = nodes_of(self.grid, self._open)
        for site, sent in self._open.items():
            sent.connected = site in nodes
            if first and self._repeat is not None and not sent.connected:
                self._awaited(site)
        due = {
            site: node
            for site, node in nodes.items()
            if self._open[site].is_due(node.last_activated_at, now)
        }
        if due:
            self._push(due, now)

    def give_up(self, now: float) -> list[tuple[str, str]]:
        """Wait no longer for the sites whose time is over; gives why each is absent.

        Where nothing is sent again, this is also the case where a request could not be sent.
        """
        over = {
            site: sent
            for site, sent in self._open.items()
            if sent.deadline <= now or (self._repeat is None and not sent.messages)
        }
        reasons = [(site, sent.reason) for site, sent in over.items()]
        for site, sent in over.items():
            self._close(site)
            self._memory.timeouts.silent(site, sent.activated)
        return reasons

    def arrived(self, message_id: str, lost: str | None = None) -> str | None:
        """Take note of what a message brought.

        Args:
            message_id: that was pulled.
            lost: why the request may have been lost, where Flower says so.

        Returns:
            The site whose request is answered; None where the message answers nothing, or
            where the request is sent again.
        """
        self._strays.pop(message_id, None)
        site = self._site_of.pop(message_id, None)
        if site is None:
            return None
        sent = self._open[site]
        sent.messages.discard(message_id)
        # Another of its messages may still be answered, and the request will be sent again.
        if self._repeat and lost is not None:
            sent.lost = lost
            return None
        self._close(site)
        if sent.began is not None:
            self._memory.timeouts.answered(site, self.retries.clock() - sent.began)
        return site

    def put_off(self, site: str, *, until: float, pause: float, reason: str) -> None:
        """Ask a site again that has just answered that it cannot say yet.

        Args:
            site: which.
            until: when to give up, on the clock of ``retries``.
            pause: seconds after which it is asked again, if its node is not activated again.
            reason: why it is absent if it never says.
        """
        sent = self._closed.pop(site)
        sent.deadline, sent.late = until, reason
        # A person decides at no pace of ours: the pause stays the same, and the time that it
        # takes says nothing about how fast the site computes.
        sent.silence, sent.growth, sent.lost = pause, 1, reason
        sent.again, sent.began = self.retries.clock() + pause, None
        self._open[site] = sent

    def _deadline(self, site: str) -> float:
        return self.retries.clock() + self._memory.timeouts.seconds(site, self._timeout)

    def _push(self, nodes: Mapping[str, NodeInfo], now: float) -> None:
        requests = {site: self._open[site].request for site in nodes}
        ids = self.grid.push_messages(_messages(requests, nodes))
        for site, node in nodes.items():
            sent = self._open[site]
            if self._memory.timeouts.is_back(site, node.last_activated_at):
                sent.deadline = max(sent.deadline, self._deadline(site))
            sent.began = now if sent.began is None else sent.began
            sent.activated, sent.again = node.last_activated_at, now + sent.silence
            sent.silence *= sent.growth
        for message_id, site in zip(ids, nodes, strict=False):
            if message_id:  # Flower gives fewer, or none, for what it refused
                self._site_of[message_id] = site
                self._open[site].messages.add(message_id)

    def _close(self, site: str) -> None:
        sent = self._closed[site] = self._open.pop(site)
        # A second reply to the same request must not be folded as well.
        for message_id in sent.messages:
            del self._site_of[message_id]
        if self._repeat is not None:
            self._strays |= dict.fromkeys(sent.messages)
            for message_id in list(self._strays)[:-MOST_STRAYS]:
                del self._strays[message_id]
        sent.messages = set()


def nodes_of(grid: Grid, roster: Iterable[str]) -> dict[str, NodeInfo]:
    """The node of each site of the roster that is connected, in the grid's order."""
    known = set(roster)
    return {node.name: node for node in grid.get_nodes() if node.name in known}


def _messages(requests: Mapping[str, Request], nodes: Mapping[str, NodeInfo]) -> list[Message]:
    """One message for each node; the array is converted once and shared."""
    shared = RecordDict()
    messages = []
    for site, node in nodes.items():
        request = requests[site]
        if request.arrays is not None and not shared:
            shared["arrays"] = request_to_record(request)["arrays"]
        content = request_to_record(replace(request, arrays=None))
        content.update(shared)
        kind = MESSAGE_TYPES[request.purpose]
        group = str(request.round)
        messages.append(Message(content, node.node_id, kind, ttl=TTL_SECONDS, group_id=group))
    return messages
