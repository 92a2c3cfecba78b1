"""Whose objects: what a node may fetch, and what it may bring.

Flower hands any object to any node that knows its hash, and takes one from any. Here a node
fetches what belongs to the requests that were handed to it, and brings what belongs to the
replies that it announced; nothing else is its.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

REQUEST_SECONDS: Final = 3600.0
"""How long after its last use a request that was handed out, and never confirmed, is known."""
REPLY_SECONDS: Final = 190.0
"""The same for a reply that is being brought; the SuperLink gives up after 180 s."""
MOST_REPLIES: Final = 8
"""How many a node may be bringing at once."""


@dataclass
class _Request:
    objects: frozenset[str]
    used: float


@dataclass
class _Reply:
    answers: str
    missing: set[str]
    used: float
    size: int = 0
    doubtful: bool = False


@dataclass
class _Node:
    requests: dict[str, _Request] = field(default_factory=dict)
    replies: dict[str, _Reply] = field(default_factory=dict)

    def tidy(self, now: float) -> None:
        for message, request in list(self.requests.items()):
            if now - request.used > REQUEST_SECONDS:
                del self.requests[message]
        for session, reply in list(self.replies.items()):
            if now - reply.used > REPLY_SECONDS:
                del self.replies[session]


class ObjectAccess:
    """Of every node's objects. Times are seconds on a clock that never goes back."""

    def __init__(self) -> None:
        self._nodes: dict[int, _Node] = {}

    def begin(self, node: int) -> None:
        """A node has connected anew: it is handed all requests again.

        It may be bringing a reply meanwhile, since a person's approval has it connect anew; or
        it was killed, and what it was bringing is worth less than what it will announce.
        """
        mine = self._nodes.setdefault(node, _Node())
        mine.requests.clear()
        for reply in mine.replies.values():
            reply.doubtful = True

    def handed_out(self, node: int, message: str, objects: Iterable[str], now: float) -> None:
        """A request was handed to a node."""
        mine = self._nodes.setdefault(node, _Node())
        mine.tidy(now)
        mine.requests[message] = _Request(frozenset(objects), now)

    def may_fetch(self, node: int, object_id: str, now: float) -> bool:
        """Whether an object belongs to a request that was handed to this node."""
        for request in self._nodes.get(node, _Node()).requests.values():
            if object_id in request.objects:
                request.used = now
                return True
        return False

    def may_confirm(self, node: int, message: str) -> bool:
        """Whether a request was handed to this node."""
        return message in self._nodes.get(node, _Node()).requests

    def confirmed(self, node: int, message: str) -> None:
        """A node has all of a request."""
        self._nodes.get(node, _Node()).requests.pop(message, None)

    def announced(
        self, node: int, session: str, answers: str, objects: Iterable[str], now: float
    ) -> bool:
        """A node will bring a reply; tells whether it may: not too many at once.

        Args:
            node: which.
            session: what the SuperLink calls the bringing.
            answers: the request that it answers.
            objects: what the SuperLink still wants of it.
            now: the time.
        """
        mine = self._nodes.setdefault(node, _Node())
        mine.tidy(now)
        if len(mine.replies) >= MOST_REPLIES:
            doubtful = next((key for key, reply in mine.replies.items() if reply.doubtful), None)
            if doubtful is None:
                return False
            del mine.replies[doubtful]
        mine.replies[session] = _Reply(answers, set(objects), now)
        return True

    def may_bring(self, node: int, session: str, object_id: str, size: int, most: int) -> bool:
        """Whether an object is missing of a reply of this node's that stays below ``most`` bytes.

        Raises:
            OverflowError: it is missing, and would make the reply too large.
        """
        reply = self._nodes.get(node, _Node()).replies.get(session)
        if reply is None or object_id not in reply.missing:
            return False
        if reply.size + size > most:
            raise OverflowError
        reply.size += size
        return True

    def brought(self, node: int, session: str, object_id: str, now: float) -> str | None:
        """An object has arrived; gives the request that is thereby answered whole."""
        mine = self._nodes.get(node, _Node())
        reply = mine.replies.get(session)
        if reply is None:
            return None
        reply.missing.discard(object_id)
        reply.used = now
        if reply.missing:
            return None
        del mine.replies[session]
        return reply.answers
