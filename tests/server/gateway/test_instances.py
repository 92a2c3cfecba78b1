"""A site that restarts is one machine; two that call at the same time are two."""

from __future__ import annotations

import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from server.gateway.instances import ACTIVE_SECONDS, LINGERING_SECONDS, MOST, Instances

WALL = datetime.datetime(2026, 11, 26, 12, 0, 0, tzinfo=datetime.UTC)
SPANS = st.floats(0.0, 300.0)
BETWEEN = 30.0
"""Seconds between two calls of a site, at most."""


def moment(now: float) -> datetime.datetime:
    return WALL + datetime.timedelta(seconds=now)


@given(
    st.lists(st.tuples(st.lists(SPANS, min_size=1, max_size=6), st.floats(0.0, 60.0)), max_size=12)
)
def test_restarts_however_many_and_fast_are_no_second_machine(
    lives: list[tuple[list[float], float]],
) -> None:
    """Even where the last call of a process comes after the first one of the next."""
    instances, now = Instances(), 0.0
    for number, (calls, pause) in enumerate(lives):
        for wait in calls:
            now += wait
            assert not instances.heard("north", f"process-{number}", now, moment(now))
        late = min(pause, LINGERING_SECONDS)
        instances.heard("north", f"process-{number + 1}", now, moment(now))
        assert not instances.heard("north", f"process-{number}", now + late, moment(now))
        now += pause


@given(
    started=st.floats(0.0, 500.0),
    one=st.lists(st.floats(1.0, BETWEEN), min_size=30, max_size=30),
    other=st.lists(st.floats(1.0, BETWEEN), min_size=30, max_size=30),
)
@example(started=0.0, one=[21.0, *[1.0] * 28, 12.0], other=[1.0, 1.0, 1.0, 1.0, 27.0, 30.0] * 5)
def test_two_machines_are_found_in_time_and_until_one_is_gone(
    started: float, one: list[float], other: list[float]
) -> None:
    """Each calls at least every 30 s, at whatever moments.

    So the first calls once the second has begun, and the second again once it may not be a process
    that has ended.
    """
    instances = Instances()
    calls = [(started, "second")]
    for name, waits, begins in (("first", one, started), ("second", other, started)):
        now = begins
        for wait in waits:
            now += wait
            calls.append((now, name))
    end = min(max(at for at, name in calls if name == which) for which in ("first", "second"))
    for at, name in sorted(calls):
        if at > end:
            break
        twins = instances.heard("north", name, at, moment(at))
        assert not instances.heard("south", "its own", at, moment(at))
        if at > started + 2 * BETWEEN + LINGERING_SECONDS:
            assert twins >= f"{moment(started):%Y-%m-%dT%H:%M:%SZ}"
            assert instances.twins("north", at) == twins
    later = end + ACTIVE_SECONDS + 1
    assert not instances.heard("north", "first", later, moment(later))


def test_a_machine_without_a_number_is_a_machine_too() -> None:
    instances = Instances()
    for now in range(0, 40, 10):
        instances.heard("north", "", now, moment(now))
        twins = instances.heard("north", "a", now + 5, moment(now + 5))
    assert twins == "2026-11-26T12:00:05Z"


def test_numbers_without_end_take_no_memory_without_end() -> None:
    instances = Instances()
    for number in range(1000):
        instances.heard("north", f"{number}" * 100, 1.0, WALL)
    (machines,) = instances._sites.values()  # noqa: SLF001 - the bound on memory
    assert len(machines) <= MOST
    assert max(map(len, machines)) <= 64
