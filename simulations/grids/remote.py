"""A Flower grid whose sites are in other processes: what is asked where, and what if one is lost.

Each site belongs to one worker, which keeps it open. A worker has a few requests at a time, so
however many sites there are, few replies wait. A worker that ends is replaced, and its sites are
asked again: each reply follows from the request and the site's keys, so nothing changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import structlog

from common.wire.flower import Message
from simulations.grids.nodes import NodesGrid, failed

AHEAD: Final = 4
"""Requests that a worker has at a time, so that it need not wait for the next."""
MOST_LOSSES: Final = 3
"""Workers that one request may cost; after that its site counts as one that failed."""

_log = structlog.get_logger(__name__)


class Program(Protocol):
    """What a worker runs: it answers for sites."""

    def answer(self, name: str, message: Message) -> Message:
        """A site's reply."""
        ...

    def recover(self, name: str, before: Sequence[Message], pending: Message) -> None:
        """Bring a site to where it was when another worker was lost."""
        ...

    def close(self) -> None:
        """Let go of all sites."""
        ...


Factory = Callable[[], Program]
"""Makes the program in the worker; it is sent there."""


class Asked(NamedTuple):
    """One request for a worker.

    Attributes:
        slot: where its reply goes, of :data:`AHEAD`.
        name: of the site.
        message: the request.
        before: what made the site ready, if it was in a worker that was lost; else None.
    """

    slot: int
    name: str
    message: Message
    before: tuple[Message, ...] | None


class Taken(NamedTuple):
    """What came from a worker.

    Attributes:
        worker: its number.
        slot: of the task.
        reply: None where the worker was lost.
    """

    worker: int
    slot: int
    reply: Message | None


class Crew(ABC):
    """Workers, by number; those that are started run until they are closed or lost."""

    @abstractmethod
    def start(self, worker: int) -> None:
        """Start a worker, or its replacement."""

    @abstractmethod
    def give(self, worker: int, task: Asked) -> None:
        """Give a worker a task; one that was lost meanwhile is told of by :meth:`take`."""

    @abstractmethod
    def take(self) -> Taken:
        """Wait for a reply, or for the loss of a worker that has tasks."""

    @abstractmethod
    def rest(self) -> None:
        """No worker has a task now: what was stored for them may go."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""


@dataclass
class _Worker:
    """What one worker has to do.

    Attributes:
        queue: message ids that wait for it.
        given: by slot, of the tasks it has.
        held: message ids of replies that came and were not pulled.
        is_started: whether it was.
    """

    queue: deque[str] = field(default_factory=deque)
    given: dict[int, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    is_started: bool = False

    def starts(self) -> bool:
        """Whether it has to be started now; from then on it is."""
        before, self.is_started = self.is_started, True
        return not before


class RemoteGrid(NodesGrid):
    """Sites in other processes.

    Args:
        names: of each node's site, by the node's id.
        crew: the workers.
        workers: how many; sites are dealt to them in turn.
        kept: types of messages that make a site ready, and are sent again to a replacement.
        order: as of :class:`NodesGrid`.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        crew: Crew,
        workers: int,
        *,
        kept: Sequence[str] = (),
        order: Sequence[str] | None = None,
    ) -> None:
        super().__init__(names, order=order)
        self._crew, self._kept_types = crew, frozenset(kept)
        self._worker_of = dealt(sorted(names.values()), workers)
        self._workers = [_Worker() for _ in range(workers)]
        self._requests: dict[str, Message] = {}
        self._replies: dict[str, Message] = {}
        self._kept: dict[str, list[Message]] = {name: [] for name in names.values()}
        self._behind: set[str] = set()
        self._losses: Counter[str] = Counter()

    def _push(self, message: Message) -> str:
        message_id = super()._push(message)
        self._requests[message_id] = message
        number = self._number(message)
        self._workers[number].queue.append(message_id)
        self._fill(number)
        return message_id

    def _reply(self, message_id: str, request: Message) -> Message:
        number = self._number(request)
        worker = self._workers[number]
        while message_id not in self._replies:
            if message_id in worker.queue and len(worker.given) < AHEAD:
                # Its turn is now: replies that nobody has pulled must not keep it waiting.
                worker.queue.remove(message_id)
                self._give(number, message_id)
            self._take()
        worker.held.discard(message_id)
        del self._requests[message_id]
        reply = self._replies.pop(message_id)
        if not self._requests:
            self._crew.rest()
        self._fill(number)
        return reply

    def _number(self, message: Message) -> int:
        return self._worker_of[self._names[message.metadata.dst_node_id]]

    def _fill(self, number: int) -> None:
        """Give a worker what it may have; replies that wait to be pulled count."""
        worker = self._workers[number]
        while worker.queue and len(worker.given) + len(worker.held) < AHEAD:
            self._give(number, worker.queue.popleft())

    def _give(self, number: int, message_id: str) -> None:
        worker, message = self._workers[number], self._requests[message_id]
        if worker.starts():
            self._crew.start(number)
        name = self._names[message.metadata.dst_node_id]
        slot = next(each for each in range(AHEAD) if each not in worker.given)
        worker.given[slot] = message_id
        before = tuple(self._kept[name]) if name in self._behind else None
        self._behind.discard(name)
        self._crew.give(number, Asked(slot, name, message, before))

    def _take(self) -> None:
        number, slot, reply = self._crew.take()
        if reply is None:
            self._lost(number)
            return
        worker = self._workers[number]
        message_id = worker.given.pop(slot)
        self._keep(message_id, reply)
        self._store(number, message_id, reply)

    def _store(self, number: int, message_id: str, reply: Message) -> None:
        self._replies[message_id] = reply
        self._workers[number].held.add(message_id)

    def _keep(self, message_id: str, reply: Message) -> None:
        request = self._requests[message_id]
        if request.metadata.message_type in self._kept_types and not reply.has_error():
            self._kept[self._names[request.metadata.dst_node_id]].append(request)

    def _lost(self, number: int) -> None:
        """Replace a worker, and have what it was asked asked again."""
        worker = self._workers[number]
        again = sorted(worker.given.values(), key=_turn)
        worker.given.clear()
        _log.warning("worker.lost", worker=number, asked_again=len(again))
        self._behind |= {name for name, at in self._worker_of.items() if at == number}
        self._crew.start(number)
        # It did its tasks in their order: the first of them is what it was at.
        at = again[0]
        self._losses[at] += 1
        if self._losses[at] >= MOST_LOSSES:
            request = self._requests[again.pop(0)]
            _log.warning("site.failed", site=self._names[request.metadata.dst_node_id])
            self._store(number, at, failed(request))
        for message_id in again:
            self._give(number, message_id)


def _turn(message_id: str) -> int:
    return int(message_id.rsplit("-", 1)[1])


def dealt(names: Sequence[str], workers: int) -> dict[str, int]:
    """Each site's worker: in turn, so that the parts are as large as each other."""
    return {name: number % workers for number, name in enumerate(names)}
