"""Large objects that several sites fetch, kept for a moment: a round's weights go to all.

An object is named by the hash of its content, so that what is kept cannot be another's. Who
may fetch it is decided before anything is looked up here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from server.gateway.superlink_client import Answer

SMALLEST: Final = 2**16
"""Bytes of an object that is worth keeping; most are hundreds."""
KEPT: Final = 2**27
"""Bytes kept in all; the least recently used go first."""
Key = tuple[int, str]


class SharedObjects:
    """Answers that carry a large object.

    Args:
        kept: bytes to keep in all.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._most = kept
        self._size = 0
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._coming: dict[Key, asyncio.Future[Answer]] = {}

    async def get(self, key: Key, fetch: Callable[[], Awaitable[Answer]]) -> Answer:
        """An object, fetched once for all who ask for it while it comes and while it is kept."""
        kept = self._answers.get(key)
        if kept is not None:
            self._answers.move_to_end(key)
            return kept
        coming = self._coming.get(key)
        if coming is None:
            coming = self._coming[key] = asyncio.ensure_future(fetch())
            coming.add_done_callback(lambda done: self._came(key, done))
        return await asyncio.shield(coming)

    def _came(self, key: Key, done: asyncio.Future[Answer]) -> None:
        del self._coming[key]
        if done.cancelled() or done.exception() is not None:
            return
        answer = done.result()
        if answer.status != 200 or not SMALLEST <= len(answer.body) <= self._most:
            return
        self._answers[key] = answer
        self._size += len(answer.body)
        while self._size > self._most:
            self._size -= len(self._answers.popitem(last=False)[1].body)
