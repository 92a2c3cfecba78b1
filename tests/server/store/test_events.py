"""Events: nobody who follows them misses one, whoever writes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import CoordinatorError
from server.store import CoordinatorStore, open_store
from tests.server.store.conftest import card
from tests.server.store.test_database import go, worker
from tests.waiting import PATIENCE


@pytest.fixture
def ready(store: CoordinatorStore) -> CoordinatorStore:
    store.admit(card("north", 1))
    store.add_study("cxr", "", 1, ["north"])
    return store


def test_an_event_comes_back_with_all_it_says(ready: CoordinatorStore) -> None:
    fields = {"seconds": 1.5, "sites": ["north"], "Straße": None}
    number = ready.record("cxr", "round.completed", round=3, site="north", fields=fields)

    (event,) = ready.events("cxr")
    assert (event.id, event.study, event.kind) == (number, "cxr", "round.completed")
    assert (event.round, event.site, event.fields) == (3, "north", fields)
    assert abs(event.at - datetime.now(UTC)) < timedelta(minutes=1)


def test_events_are_followed_from_the_last_one_seen(ready: CoordinatorStore) -> None:
    assert ready.events() == ()
    numbers = [ready.record("cxr", f"kind{number}") for number in range(5)]

    assert numbers == sorted(set(numbers))
    assert [event.kind for event in ready.events("cxr", after=numbers[2])] == ["kind3", "kind4"]
    assert [event.id for event in ready.events("cxr", numbers[0], 2)] == numbers[1:3]
    assert ready.events("cxr", numbers[-1]) == ()


def test_events_of_no_study_are_among_all_and_in_no_studys(ready: CoordinatorStore) -> None:
    ready.record(None, "gateway.refused", fields={"reason": "unknown key"})
    ready.record("cxr", "study.started")

    assert [event.kind for event in ready.events()] == ["gateway.refused", "study.started"]
    assert [event.kind for event in ready.events("cxr")] == ["study.started"]
    assert [event.study for event in ready.events(kind="gateway.refused")] == [None]


def test_an_event_of_a_study_that_is_not_there_is_refused(ready: CoordinatorStore) -> None:
    with pytest.raises(CoordinatorError):
        ready.record("none", "study.started")


def test_a_number_is_never_used_again(store_url: str) -> None:
    with open_store(store_url) as store:
        first = store.record(None, "one")
    with open_store(store_url) as store:
        assert store.record(None, "two") > first


def test_threads_share_a_store(ready: CoordinatorStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda n: ready.record("cxr", "x", round=n), range(80)))

    assert len(set(numbers)) == 80
    assert {event.round for event in ready.events("cxr")} == set(range(80))


def test_a_follower_misses_nothing_that_processes_write_at_once(root: Path, store_url: str) -> None:
    program = """
with open_store(sys.argv[1]) as store:
    for number in range(60):
        store.record(None, sys.argv[2], round=number)
"""
    with open_store(store_url) as store:
        names = ["a", "b", "c"]
        writers = [worker(root, program, store_url, name) for name in names]
        written = threading.Thread(target=go, args=(writers,))
        written.start()
        seen: list[tuple[str, int | None]] = []
        last, deadline = 0, time.monotonic() + PATIENCE
        while len(seen) < 180 and time.monotonic() < deadline:
            for event in store.events(after=last):
                seen.append((event.kind, event.round))
                last = event.id
        written.join()

    assert {name: [n for kind, n in seen if kind == name] for name in names} == {
        name: list(range(60)) for name in names
    }
