"""Large objects are fetched once for all sites."""

from __future__ import annotations

import asyncio

import pytest

from server.gateway.shared_objects import SMALLEST, SharedObjects
from server.gateway.superlink_client import Answer


class Source:
    """Where objects come from, and how often they were asked of it."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.asked = 0
        self._answer = Answer(status, None, body)

    async def fetch(self) -> Answer:
        self.asked += 1
        await asyncio.sleep(0)
        if not self._answer.body:
            raise ConnectionResetError
        return self._answer


def test_who_asks_while_it_comes_or_later_gets_the_same() -> None:
    async def run() -> int:
        shared, source = SharedObjects(), Source(b"x" * SMALLEST)
        await asyncio.gather(*(shared.get((1, "a"), source.fetch) for _ in range(5)))
        await shared.get((1, "a"), source.fetch)
        return source.asked

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("source", [Source(b"small"), Source(b"x" * SMALLEST, status=403)])
def test_small_objects_and_refusals_are_not_kept(source: Source) -> None:
    async def run() -> None:
        shared = SharedObjects()
        for _ in range(2):
            await shared.get((1, "a"), source.fetch)

    asyncio.run(run())
    assert source.asked == 2


def test_what_was_not_used_for_longest_goes_first() -> None:
    async def run() -> tuple[int, int]:
        shared = SharedObjects(kept=2 * SMALLEST)
        sources = {name: Source(b"x" * SMALLEST) for name in "abc"}
        for name in "abac":
            await shared.get((1, name), sources[name].fetch)
        for name in "ab":
            await shared.get((1, name), sources[name].fetch)
        return sources["a"].asked, sources["b"].asked

    assert asyncio.run(run()) == (1, 2)


def test_what_failed_is_tried_again() -> None:
    async def run() -> int:
        shared, source = SharedObjects(), Source(b"")
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await shared.get((1, "a"), source.fetch)
        return source.asked

    assert asyncio.run(run()) == 2
