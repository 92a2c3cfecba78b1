"""A cache of large objects that several sites fetch: a round's weights go to all of them.

An object's name is the hash of its content, so the cache cannot give a wrong one. Whether a site
may fetch an object is decided before the cache is read (:mod:`server.gateway.object_access`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from server.gateway.superlink_client import Answer

# Most objects have some hundred bytes and belong to one site: they would only push weights out.
SMALLEST: Final = 2**16
"""Bytes of the smallest object that is kept."""
# 128 MiB: about three rounds of weights of 11 million float32 parameters (42 MiB).
KEPT: Final = 2**27
"""Bytes kept in all; the least recently used are dropped first."""
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
        """An object; fetched once, for all who ask while it is on its way or kept."""
        kept = self._answers.get(key)
        if kept is not None:
            self._answers.move_to_end(key)
            return kept
        coming = self._coming.get(key)
        if coming is None:
            coming = self._coming[key] = asyncio.ensure_future(fetch())
            coming.add_done_callback(lambda done: self._came(key, done))
        return await asyncio.shield(coming)  # one caller that leaves must not end it for others

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
