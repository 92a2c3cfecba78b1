"""Word between gateway and studies, also across a restart of either."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.superlink.notifications import NotificationBoard, NotificationLine
from tests.waiting import PATIENCE, until


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)


class Gateway:
    """A board in a loop, and what it heard."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.heard: list[int] = []
        self._loop = loop
        self._board = NotificationBoard(path)
        self._board.subscribe(self.heard.extend)
        asyncio.run_coroutine_threadsafe(self._board.start(), loop).result(PATIENCE)

    def complete(self, message_id: str) -> None:
        self._loop.call_soon_threadsafe(self._board.complete, message_id)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._board.stop(), self._loop).result(PATIENCE)


def told(line: NotificationLine, nodes: list[int], gateway: Gateway) -> bool:
    line.pushed(nodes)
    return set(gateway.heard) >= set(nodes)


def heard(line: NotificationLine, message_id: str) -> bool:
    line.wait(0.05)
    return line.complete(message_id)


def test_each_side_hears_the_other(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(tmp_path / "notices.sock", loop)
    line = NotificationLine(tmp_path / "notices.sock")
    line.expect({"a": 1, "b": 2})
    until(lambda: told(line, [1, 2], gateway))
    line.take("a")
    assert not line.doubted("a")  # though it was, if it was expected before the line was up
    gateway.complete("someone else's")
    gateway.complete("b")
    until(lambda: heard(line, "b"))
    assert not line.complete("a")
    assert not line.complete("someone else's")
    line.close()
    gateway.stop()


def test_waiting_ends_at_the_notice_and_at_the_limit(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    gateway = Gateway(tmp_path / "notices.sock", loop)
    line = NotificationLine(tmp_path / "notices.sock")
    until(lambda: told(line, [1], gateway))
    line.wait(0.1)
    assert not line.wait(0.05)
    line.expect({"a": 1})
    gateway.complete("a")
    assert line.wait(PATIENCE)
    assert line.complete("a")
    assert not line.wait(0.05)  # nothing new
    line.close()
    gateway.stop()


def test_after_a_restart_of_the_gateway_both_look_for_themselves(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    path = tmp_path / "notices.sock"
    first = Gateway(path, loop)
    line = NotificationLine(path)
    until(lambda: told(line, [5], first))
    line.expect({"a": 5})
    line.take("a")
    first.stop()
    line.pushed([5])  # which nobody hears
    second = Gateway(path, loop)
    until(lambda: line.doubted("a"))
    assert not line.complete("a")
    until(lambda: second.heard == [5])
    line.close()
    second.stop()


def test_the_gateway_outlives_a_study(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(tmp_path / "notices.sock", loop)
    NotificationLine(tmp_path / "notices.sock").close()
    gateway.complete("a")
    line = NotificationLine(tmp_path / "notices.sock")
    until(lambda: told(line, [3], gateway))
    line.close()
    gateway.stop()


def test_only_the_owner_may_use_the_socket(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    gateway = Gateway(tmp_path / "notices.sock", loop)
    assert (tmp_path / "notices.sock").stat().st_mode & 0o777 == 0o600
    gateway.stop()
