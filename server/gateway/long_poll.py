"""Polls that are held until there is work for their node."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Hold:
    """One poll that waits. It is over when a later one of its node takes its place."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.over = False

    def wake(self) -> None:
        """There may be work."""
        self._event.set()

    def end(self) -> None:
        """This poll is to be answered, work or not."""
        self.over = True
        self._event.set()

    async def until(self, deadline: float, receive: Receive) -> bool:
        """Wait for work, or until the deadline; False where the caller has gone."""
        left = max(0.0, deadline - time.monotonic())
        waking = asyncio.ensure_future(self._event.wait())
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((waking, leaving), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            return not leaving.done()
        finally:
            for future in (waking, leaving):
                future.cancel()
            self._event.clear()


class LongPoll:
    """Who waits, and what for."""

    def __init__(self) -> None:
        self._expected: dict[int, int] = {}
        self._holds: dict[int, Hold] = {}

    def work_for(self, nodes: Iterable[int]) -> None:
        """There is a further request for each of these nodes."""
        for node in nodes:
            self._expected[node] = self._expected.get(node, 0) + 1
            if node in self._holds:
                self._holds[node].wake()

    def expected(self, node: int) -> int:
        """How many requests a node may look for; one, where nothing is known of it yet."""
        return self._expected.get(node, 1)

    def done(self, node: int, requests: int) -> None:
        """So many of them were looked for."""
        self._expected[node] = max(0, self._expected.get(node, 0) - requests)

    @contextlib.contextmanager
    def hold(self, node: int) -> Iterator[Hold]:
        """Hold a poll; an earlier one of the same node, whose caller is gone, ends."""
        earlier = self._holds.get(node)
        if earlier is not None:
            earlier.end()
        mine = self._holds[node] = Hold()
        try:
            yield mine
        finally:
            if self._holds.get(node) is mine:
                del self._holds[node]

    def release(self, node: int) -> None:
        """Answer the poll of one node."""
        if node in self._holds:
            self._holds[node].end()

    def release_all(self) -> None:
        """Answer every poll."""
        for hold in self._holds.values():
            hold.end()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
