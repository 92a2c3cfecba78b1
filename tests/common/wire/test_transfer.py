"""Moving parts side by side: what comes late, what never comes, how much is in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

import common.wire.transfer
from common.wire.transfer import WORKERS, Gone, NotYet, deliver, fetch, pool


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    made = pool("test")
    yield made
    made.shutdown()


def test_every_part_is_fetched_once(threads: ThreadPoolExecutor) -> None:
    asked: list[str] = []

    def pull(name: str) -> bytes:
        asked.append(name)
        return name.encode()

    assert fetch(threads, ["a", "b", "a"], pull, 1.0) == {"a": b"a", "b": b"b"}
    assert sorted(asked) == ["a", "b"]


def test_a_part_that_comes_late_is_asked_for_again_soon(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float | None] = []

    class Told(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return False

    monkeypatch.setattr(common.wire.transfer, "threading", SimpleNamespace(Event=Told))

    def pull(name: str) -> bytes | None:
        return b"here" if len(pauses) == 5 else None

    assert fetch(threads, ["a"], pull, 30.0) == {"a": b"here"}
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.3]


def test_a_part_that_does_not_come_ends_the_wait_in_time(threads: ThreadPoolExecutor) -> None:
    with pytest.raises(NotYet):
        fetch(threads, [str(number) for number in range(20)], lambda name: None, 0.1)


def test_a_part_that_is_gone_is_said_to_be(threads: ThreadPoolExecutor) -> None:
    def pull(name: str) -> bytes | None:
        if name == "gone":
            raise Gone
        return None

    with pytest.raises(Gone):
        fetch(threads, ["late", "gone"], pull, 0.2)


def test_only_a_few_parts_are_written_out_at_once(threads: ThreadPoolExecutor) -> None:
    lock = threading.Lock()
    alive, most, pushed = 0, 0, []

    def write() -> bytes:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return b"content"

    def push(name: str, content: bytes) -> None:
        nonlocal alive
        with lock:
            alive -= 1
            pushed.append(name)

    deliver(threads, ((str(number), write) for number in range(50)), push)
    assert sorted(pushed, key=int) == [str(number) for number in range(50)]
    assert most <= WORKERS


def test_after_a_failure_nothing_more_is_begun(threads: ThreadPoolExecutor) -> None:
    begun: list[str] = []

    def push(name: str, content: bytes) -> None:
        begun.append(name)
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        deliver(threads, ((str(number), lambda: b"") for number in range(100)), push)
    assert len(begun) <= 2 * WORKERS
