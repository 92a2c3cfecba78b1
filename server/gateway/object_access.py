"""Which objects a node may fetch and which it may push.

Flower gives any object to any node that knows its hash, and accepts one from any node. Here a
node may fetch the objects of requests that were handed out to it, and push the objects of replies
that it announced. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

REQUEST_SECONDS: Final = 3600.0
"""How long after its last use an unconfirmed request is remembered."""
# The SuperLink ends a push session 180 s after its last object.
REPLY_SECONDS: Final = 190.0
"""How long after its last object an unfinished reply is remembered."""
# A bound on memory: each unfinished reply may be as large as the largest update.
MOST_REPLIES: Final = 8
"""Replies that a node may push at once."""


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
    """The objects of every node. Times are seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._nodes: dict[int, _Node] = {}

    def begin(self, node: int) -> None:
        """A node has connected again: all requests are handed out to it again.

        It may still be pushing a reply, because an approval makes a site connect again. Or it was
        killed, and will never finish that reply. So its replies stay, but give way to new ones.
        """
        mine = self._nodes.setdefault(node, _Node())
        mine.requests.clear()
        for reply in mine.replies.values():
            reply.doubtful = True

    def handed_out(self, node: int, message: str, objects: Iterable[str], now: float) -> None:
        """A request was handed out to a node."""
        mine = self._nodes.setdefault(node, _Node())
        mine.tidy(now)
        mine.requests[message] = _Request(frozenset(objects), now)

    def may_fetch(self, node: int, object_id: str, now: float) -> bool:
        """Whether an object belongs to a request that was handed out to this node."""
        for request in self._nodes.get(node, _Node()).requests.values():
            if object_id in request.objects:
                request.used = now
                return True
        return False

    def may_confirm(self, node: int, message: str) -> bool:
        """Whether a request was handed out to this node."""
        return message in self._nodes.get(node, _Node()).requests

    def confirmed(self, node: int, message: str) -> None:
        """A node has the whole request."""
        self._nodes.get(node, _Node()).requests.pop(message, None)

    def announced(
        self, node: int, session: str, answers: str, objects: Iterable[str], now: float
    ) -> bool:
        """A node will push a reply; gives whether it may: not too many at once.

        Args:
            node: its number.
            session: the SuperLink's id of this push.
            answers: the request that it answers.
            objects: those that the SuperLink does not have yet.
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

    def may_push(self, node: int, session: str, object_id: str, size: int, most: int) -> bool:
        """Whether an object is still missing of a reply of this node.

        Raises:
            OverflowError: it is, but the reply would be larger than ``most`` bytes.
        """
        reply = self._nodes.get(node, _Node()).replies.get(session)
        if reply is None or object_id not in reply.missing:
            return False
        if reply.size + size > most:
            raise OverflowError
        reply.size += size  # counted before it is stored, so that many at once cannot pass
        return True

    def pushed_object(self, node: int, session: str, object_id: str, now: float) -> str | None:
        """An object was stored; gives the request if its reply is complete now."""
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
