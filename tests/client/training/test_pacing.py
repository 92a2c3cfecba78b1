"""What was done with patients is over at a tick, whatever came of it and however long it took."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

import client.requests.round
from client.administration import service
from client.consent.decisions import DELETING, freeze, freeze_pending
from client.data.cohort import Cohort
from client.records import audit_log
from client.records.approvals import Approval
from client.requests.handler import answer
from client.site import Site
from client.training.pacing import Pace, ticks_until
from common.errors import DataError
from common.plan import Plan
from common.wire.messages import Request
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    offer_request,
    plan_for,
    proposal,
)
from tests.common.studies import small_study

STUDY = small_study(evaluation={"rounds": [1, 2]})


@dataclass
class Time:
    """A clock that goes on only while somebody sleeps, or says that work took so long.

    Attributes:
        now: seconds.
        rests: how often somebody slept, and from when on.
        meanwhile: called by whoever sleeps.
    """

    now: float = 100.0
    rests: list[float] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.rests.append(self.now)
        self.meanwhile()
        self.now += seconds

    @property
    def pace(self) -> Pace:
        return Pace(waits=True, clock=self.read, sleep=self.sleep)


@pytest.mark.parametrize(
    ("elapsed", "ticks"), [(0.0, 1), (0.2, 1), (0.21, 2), (0.4, 2), (0.41, 4), (1.0, 8), (60, 512)]
)
def test_an_overrun_doubles_the_time(elapsed: float, ticks: int) -> None:
    assert ticks_until(elapsed, 0.2) == ticks


def test_a_sleep_that_ends_before_its_time_is_slept_again() -> None:
    time = Time()
    pace = Pace(
        waits=True, clock=time.read, sleep=lambda seconds: time.sleep(max(0.01, seconds / 2))
    )
    pace.begin(400)
    assert pace.rest() == 1
    assert time.now >= 100.4


def test_who_began_nothing_waits_for_nothing() -> None:
    time = Time()
    assert time.pace.rest() == 0
    pace = time.pace
    pace.begin(0)
    assert pace.rest() == 0
    lazy = Pace(waits=False, clock=time.read, sleep=time.sleep)
    lazy.begin(500)
    assert lazy.rest() == 0
    assert time.rests == []


def test_of_several_beginnings_the_first_counts_and_the_longest_tick() -> None:
    time, pace = Time(), None
    pace = time.pace
    pace.begin(300)
    time.now += 0.1
    pace.begin(500)
    assert pace.rest() == 1
    assert time.now == pytest.approx(100.5)


@dataclass
class World:
    """A site whose clock is :class:`Time`, and a plan that it has approved."""

    hospital: Hospital
    site: Site
    plan: Plan
    time: Time = field(default_factory=Time)

    @property
    def tick(self) -> float:
        return self.plan.numerics.ticks.train / 1000

    def over(self, began: float) -> float:
        """In ticks of a round, how long after it began it is now."""
        return (self.time.now - began) / self.tick


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    hospital = Hospital(tmp_path / "north", seed=None)
    with hospital.open() as site:
        plan = approved(site, STUDY)
        freeze_pending(site)
        assert plan.numerics.ticks.train > 0 < plan.numerics.ticks.evaluate
        it = World(hospital, site, plan)
        site.pace = it.time.pace
        yield it


def taking(world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, name: str) -> None:
    """From here on a function of the round takes so long, on the world's clock."""
    original = getattr(client.requests.round, name)

    def slow(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - another function's
        world.time.now += seconds
        return original(*args, **named)

    monkeypatch.setattr(client.requests.round, name, slow)


@pytest.mark.parametrize(("share", "ticks"), [(0.0, 1), (0.9, 1), (1.1, 2), (3.3, 4), (4.7, 8)])
def test_a_round_is_over_after_one_tick_or_two_or_four(
    world: World, monkeypatch: pytest.MonkeyPatch, share: float, ticks: int
) -> None:
    taking(world, monkeypatch, share * world.tick, "local_change")
    began = world.time.now
    assert answered(world.site, asking(world.plan)).code == "ok"
    assert world.over(began) == pytest.approx(ticks)


def test_an_evaluation_has_its_own_tick(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    taking(world, monkeypatch, 0.01, "counted")
    assert answered(world.site, asking(world.plan)).code == "ok"
    began = world.time.now
    assert answered(world.site, asking(world.plan, 1, "evaluate")).code == "ok"
    assert world.time.now - began == pytest.approx(world.plan.numerics.ticks.evaluate / 1000)


def test_the_silence_of_a_site_that_fails_is_over_at_the_tick_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is asked next would be answered at a time that tells when it failed."""

    def failing(*_: object, **__: object) -> None:
        world.time.now += 0.3 * world.tick
        raise DataError("a patient's file")

    monkeypatch.setattr(client.requests.round, "local_change", failing)
    began = world.time.now
    assert answer(world.site, asking(world.plan)) is None
    assert world.over(began) == pytest.approx(1)


def test_patients_are_not_read_before_the_tick_has_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them counts, and takes as long as there are many."""
    reading = world.site.cohorts.of

    def slow(approval: Approval) -> Cohort:
        world.time.now += 1.5 * world.tick
        return reading(approval)

    monkeypatch.setattr(world.site.cohorts, "of", slow)
    began = world.time.now
    assert answered(world.site, asking(world.plan)).code == "ok"
    assert world.over(began) == pytest.approx(2)


def test_a_reply_is_durable_before_it_waits_and_noted_after(world: World) -> None:
    seen: list[tuple[int, str]] = []
    world.time.meanwhile = lambda: seen.append(
        (len(world.hospital.rows("replies")), [*audit_log.entries(world.hospital.state)][-1].event)
    )
    assert answered(world.site, asking(world.plan)).code == "ok"
    assert seen == [(1, "round.charged")]
    assert [*audit_log.entries(world.hospital.state)][-1].event == "message.out"


def test_what_follows_from_public_things_alone_does_not_wait(world: World) -> None:
    """Offers, proposals, refusals before patients are read, and what was released before."""
    assert answered(world.site, asking(world.plan)).code == "ok"
    before = len(world.time.rests)
    assert answered(world.site, asking(world.plan)).code == "ok"  # the stored reply
    assert answered(world.site, asking(world.plan, 9)).code == "round-out-of-order"
    assert answered(world.site, asking(world.plan, 2, arrays=None)).code == "malformed"
    assert answered(world.site, offer_request(STUDY)).code == "ok"
    other = plan_for(world.site, small_study(study={"name": "other"}))
    assert answered(world.site, proposal(other)).code == "ok"
    assert len(world.time.rests) == before


def test_the_end_of_a_study_waits(world: World) -> None:
    """What it overwrites on the disk is as long as there are patients."""
    began = world.time.now
    assert answered(world.site, Request("small", world.plan.hash, 0, "close")).code == "ok"
    assert world.over(began) == pytest.approx(1)


def test_decoded_images_are_deleted_within_a_tick(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as there are many; what is asked next waits for it."""
    deleting = shutil.rmtree

    def slow(home: Path) -> None:
        world.time.now += 0.9 * world.tick
        deleting(home)

    monkeypatch.setattr("client.data.cache.shutil.rmtree", slow)
    began = world.time.now
    assert answered(world.site, Request("small", world.plan.hash, 0, "close")).code == "ok"
    freeze_pending(world.site)
    assert world.over(began) == pytest.approx(1)
    assert not [each for each in (world.hospital.state / "cache").iterdir() if each.is_dir()]


def test_images_of_a_study_that_expired_are_deleted_within_a_tick(world: World) -> None:
    world.site.store.execute("UPDATE approvals SET state = 'expired'")
    began = world.time.now
    freeze_pending(world.site)
    assert world.time.now - began == pytest.approx(DELETING / 1000)
    freeze_pending(world.site)
    assert world.time.now - began == pytest.approx(DELETING / 1000)


def test_freezing_a_cohort_is_over_at_a_tick(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads every patient, and what is asked next waits for it."""
    assert answered(world.site, proposal(plan_for(world.site, small_study()))).code == "ok"

    def slow(site: Site, approval: Approval) -> None:
        world.time.now += 2.5 * world.tick
        freeze(site, approval)

    monkeypatch.setattr("client.consent.decisions.freeze", slow)
    began = world.time.now
    with structlog.testing.capture_logs() as logged:
        freeze_pending(world.site)
    assert world.over(began) == pytest.approx(4)
    assert [each["ticks"] for each in logged if each["event"] == "reading.overran"] == [4]
    freeze_pending(world.site)
    assert world.over(began) == pytest.approx(4)


@pytest.mark.parametrize("decided", ["stopped", "paused"])
def test_what_a_person_decides_while_a_reply_waits_keeps_it_here(
    world: World, decided: str
) -> None:
    def decide() -> None:
        if decided == "stopped":
            service.stop(world.site, "small", by="a person")
        else:
            service.pause(world.site, by="a person")

    world.time.meanwhile = decide
    assert answer(world.site, asking(world.plan)) is None
    last = [*audit_log.entries(world.hospital.state)][-1]
    assert last.event == "message.silence"
    assert decided in str(last.fields["why"])
    world.time.meanwhile = lambda: None
    if decided == "paused":
        service.resume(world.site, by="a person")
        assert answered(world.site, asking(world.plan)).code == "ok"
        assert len(world.hospital.rows("charges")) == 1
    else:
        assert answer(world.site, asking(world.plan)) is None


def test_only_a_site_that_serves_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation's sites, and the administrator's, do not; the worker's is opened to serve."""
    hospital = Hospital(tmp_path / "north", seed=None)
    with hospital.open() as site:
        plan, time = approved(site, STUDY), Time()
        monkeypatch.setattr(site.pace, "_clock", time.read)
        monkeypatch.setattr(site.pace, "_sleep", time.sleep)
        assert answered(site, asking(plan)).code == "ok"
    assert time.rests == []
