"""Asking sites and hearing them one by one.

All requests of a round are pushed at once, sharing the one copy of the weights; then one
reply at a time is pulled and handed on, so that it can be folded and forgotten.

Flower never repeats a request, and over a network it may lose one: it counts as delivered
once it was pulled, and pulling the reply of a site that went away destroys it. So a request
may be sent again as a new message, whose content, and so whose identity, is the same: at once
when the site's node was activated anew, else after a silence that doubles. Any of its
messages answers it; what the others bring is pulled and dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from common.errors import Refusal
from common.process.logs import place
from common.study.bounded import seconds
from common.wire.flower import ErrorCode, Message, RecordDict
from common.wire.messages import Purpose, Reply, Request, reply_from_record, request_to_record
from server.study.timeouts import ReplyTimeouts

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

MESSAGE_TYPES: Final[dict[Purpose, str]] = {
    "offer": "query.offer",
    "propose": "query.propose",
    "amend": "query.amend",
    "train": "train",
    "evaluate": "evaluate",
    "close": "query.close",
}
POLL_SECONDS: Final = 0.25
"""How long to wait after a sweep in which nobody had answered."""
TTL_SECONDS: Final = 30 * 86400.0
"""How long Flower keeps a message; the round's own time-out is the shorter one."""
MOST_STRAYS: Final = 64
"""Messages that are looked for once nobody waits for them: their replies would stay in the
SuperLink's memory until the study ends."""
NOT_CONNECTED: Final = "not connected"
UNREADABLE: Final = "sent something that is not a reply"
NOT_TAKEN: Final = "the request could not be handed to Flower"
_ERRORS: Final = {
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "its client failed; its own log says why",
    ErrorCode.CLIENT_APP_CRASHED: "its client crashed",
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its client could not be loaded",
    ErrorCode.NODE_UNAVAILABLE: "offline",
    ErrorCode.MESSAGE_UNAVAILABLE: "the request expired before it was answered",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply was lost on the way",
}
_LOST: Final = frozenset(
    {
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    }
)
"""Errors after which the same request may still be answered."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Absence:
    """A site that did not answer, and why.

    Attributes:
        reason: in words.
        code: of a refusal that the site signed; empty otherwise.
    """

    reason: str
    code: str = ""


@dataclass(frozen=True)
class Repeat:
    """How a request is asked again over a grid that may lose it.

    Attributes:
        silence: seconds after which a request is sent again; each further time it is twice
            as long.
        look: seconds between two looks at who is connected.
    """

    silence: float = 60.0
    look: float = 2.0


@dataclass(frozen=True)
class RetryPolicy:
    """What differs between a simulation, which loses nothing, and a network.

    Attributes:
        wait: pauses for at most so many seconds; over a network, until a reply is complete.
        repeat: how requests are asked again; None where nothing is lost, and where a site
            that is not connected need not be waited for.
        poll_seconds: pause after a sweep without an answer.
    """

    wait: Callable[[float], None] = time.sleep
    repeat: Repeat | None = None
    poll_seconds: float = POLL_SECONDS


SIMULATION: Final = RetryPolicy()


@dataclass
class Memory:
    """What is remembered from one question of a study to the next.

    Attributes:
        strays: messages that nobody waits for any more, the oldest first.
        patience: how long each site is waited for.
    """

    strays: dict[str, None] = field(default_factory=dict)
    patience: ReplyTimeouts = field(default_factory=ReplyTimeouts)


@dataclass
class _Asked:
    """How far one site's request has come."""

    request: Request
    deadline: float
    late: str
    silence: float
    growth: int = 2
    again: float = 0.0
    connected: bool = False
    activated: str | None = None
    lost: str = NOT_TAKEN
    began: float | None = None
    messages: set[str] = field(default_factory=set)

    @property
    def reason(self) -> str:
        """Why the site is absent, should it not answer any more."""
        if not self.connected:
            return NOT_CONNECTED
        return self.late if self.messages else self.lost

    def is_due(self, activated: str, now: float) -> bool:
        """Whether to send the request, again or for the first time."""
        return now >= self.again or activated != self.activated


class Dispatcher:
    """One question to several sites, until each has answered or its time is over.

    Iterating yields each site of ``requests`` once, with its reply, well formed and not
    verified, or the reason for its absence; a site that was put off comes once more.

    Args:
        grid: how messages travel.
        requests: what each site is asked; all carry the same array, or none.
        timeout: how long to wait for replies, as ``30m``.
        most_weights: the longest array that a reply may carry.
        habits: a simulation's, or a network's.
        memory: of the study's earlier questions; it changes.
        awaited: called once with each site that is waited for, not being connected.
    """

    def __init__(
        self,
        grid: Grid,
        requests: Mapping[str, Request],
        *,
        timeout: str,
        most_weights: int,
        habits: RetryPolicy = SIMULATION,
        memory: Memory | None = None,
        awaited: Callable[[str], None] = lambda site: None,
    ) -> None:
        self._grid, self._habits, self._repeat = grid, habits, habits.repeat
        self._most_weights = most_weights
        self._awaited = awaited
        self._memory = memory or Memory()
        self._strays, self._timeout = self._memory.strays, seconds(timeout)
        silence = self._repeat.silence if self._repeat else 0.0
        late = f"no reply in {timeout}"
        self._open = {
            site: _Asked(request, self._deadline(site), late, silence)
            for site, request in requests.items()
        }
        self._answered: dict[str, _Asked] = {}
        self._site_of: dict[str, str] = {}
        self._look_at = -math.inf

    def __iter__(self) -> Iterator[tuple[str, Reply | Absence]]:
        """Ask, and give each answer as it comes."""
        while self._open:
            now, heard = time.monotonic(), False
            yield from self._ask(now)
            for answer in self._sweep():
                heard = True
                if answer is not None:
                    yield answer
            for site in [site for site, asked in self._open.items() if asked.deadline <= now]:
                yield site, self._absent(site)
            if self._open and not heard:
                nearest = min(asked.deadline for asked in self._open.values())
                pause = min(self._habits.poll_seconds, nearest - time.monotonic())
                self._habits.wait(max(0.0, pause))

    def put_off(self, site: str, *, until: float, pause: float, reason: str) -> None:
        """Ask a site again that has just answered that it cannot say yet.

        Args:
            site: which.
            until: when to give up (``time.monotonic``).
            pause: seconds after which it is asked again, if its node is not activated anew.
            reason: why it is absent if it never says.
        """
        asked = self._answered.pop(site)
        asked.deadline, asked.late = until, reason
        asked.silence, asked.growth, asked.lost = pause, 1, reason
        asked.again, asked.began = time.monotonic() + pause, None
        self._open[site] = asked

    def _deadline(self, site: str) -> float:
        return time.monotonic() + self._memory.patience.seconds(site, self._timeout)

    def _ask(self, now: float) -> Iterator[tuple[str, Absence]]:
        """Send what is due; over a grid that loses nothing all of it, once."""
        if now < self._look_at:
            return
        first = self._look_at == -math.inf
        self._look_at = math.inf if self._repeat is None else now + self._repeat.look
        nodes = nodes_of(self._grid, self._open)
        for site, asked in self._open.items():
            asked.connected = site in nodes
            if first and self._repeat is not None and not asked.connected:
                self._awaited(site)
        self._push(
            {
                site: node
                for site, node in nodes.items()
                if self._open[site].is_due(node.last_activated_at, now)
            },
            now,
        )
        if self._repeat is None:
            for site in [site for site, asked in self._open.items() if not asked.messages]:
                yield site, self._absent(site)

    def _push(self, nodes: Mapping[str, NodeInfo], now: float) -> None:
        if not nodes:
            return
        requests = {site: self._open[site].request for site in nodes}
        ids = self._grid.push_messages(_messages(requests, nodes))
        for site, node in nodes.items():
            asked = self._open[site]
            if self._memory.patience.is_back(site, node.last_activated_at):
                asked.deadline = max(asked.deadline, self._deadline(site))
            asked.began = now if asked.began is None else asked.began
            asked.activated, asked.again = node.last_activated_at, now + asked.silence
            asked.silence *= asked.growth
        for message_id, site in zip(ids, nodes, strict=False):
            if message_id:  # Flower gives fewer, or none, for what it refused
                self._site_of[message_id] = site
                self._open[site].messages.add(message_id)

    def _sweep(self) -> Iterator[tuple[str, Reply | Absence] | None]:
        """Pull each outstanding reply that may be there; None for what answers nothing."""
        for message_id in [*self._site_of, *self._strays]:
            for message in self._grid.pull_messages([message_id]):
                yield self._take(message_id, message)

    def _take(self, message_id: str, message: Message) -> tuple[str, Reply | Absence] | None:
        self._strays.pop(message_id, None)
        site = self._site_of.pop(message_id, None)
        if site is None:
            return None
        asked = self._open[site]
        asked.messages.discard(message_id)
        if self._repeat and message.has_error() and message.error.code in _LOST:
            asked.lost = _ERRORS[message.error.code]
            return None
        self._close(site)
        if asked.began is not None:
            self._memory.patience.answered(site, time.monotonic() - asked.began)
        return site, _read(message, self._most_weights)

    def _absent(self, site: str) -> Absence:
        asked = self._open[site]
        reason = asked.reason
        self._close(site)
        self._memory.patience.silent(site, asked.activated)
        return Absence(reason)

    def _close(self, site: str) -> None:
        asked = self._answered[site] = self._open.pop(site)
        for message_id in asked.messages:
            del self._site_of[message_id]
        if self._repeat is not None:
            self._strays |= dict.fromkeys(asked.messages)
            for message_id in list(self._strays)[:-MOST_STRAYS]:
                del self._strays[message_id]
        asked.messages = set()


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


def _read(message: Message, most_weights: int) -> Reply | Absence:
    if message.has_error():
        code = message.error.code
        return Absence(_ERRORS.get(code, f"Flower's error {code}"))
    try:
        return reply_from_record(message.content, most_weights)
    except Refusal:
        return Absence(UNREADABLE)
    except Exception as error:  # noqa: BLE001 - whatever one site sends, the others go on
        log.warning("reply.unreadable", error=type(error).__name__, at=place(error))
        return Absence(UNREADABLE)
