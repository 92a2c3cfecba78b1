"""An approval binds to one plan, and its key is gone once the study is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest

from client.records.approvals import Approvals, Silence
from client.records.store import SiteDatabase
from common.errors import Refusal, RefusalCode
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.privacy.randomness import StudyKey
from tests.common.studies import small_study

KEY = StudyKey(bytes(range(100, 132)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SiteDatabase]:
    with SiteDatabase(tmp_path / "site.sqlite") as opened:
        yield opened


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_titled("Hardly anything")


def plan_titled(title: str) -> Plan:
    study = small_study(study={"title": title}, privacy={"mode": "none"})
    offer = Offer(
        site="north",
        public_key="ab" * 32,
        declared_patients=20,
        most_patients=40,
        known_key=False,
        numerics=record(1, EngineChoice()),
    )
    return write_plan(study, offer, 106)


def refused(approvals: Approvals, plan: Plan, code: RefusalCode = RefusalCode.NOT_APPROVED) -> str:
    with pytest.raises(Refusal) as caught:
        approvals.require(plan.hash)
    assert caught.value.code is code
    return caught.value.details["found"]


def test_a_plan_with_a_key_may_run(store: SiteDatabase, plan: Plan) -> None:
    Approvals(store).add(plan, KEY)
    found = Approvals(store).require(plan.hash)
    assert (found.plan, found.frozen, found.state, found.key) == (plan, "", "approved", KEY)


def test_a_plan_that_is_recorded_anew_is_frozen_anew(store: SiteDatabase, plan: Plan) -> None:
    approvals = Approvals(store)
    approvals.add(plan, KEY)
    approvals.freeze(plan.hash, 3, "pillow 1")
    found = approvals.require(plan.hash)
    assert (bool(found.frozen), found.left_out) == (True, 3)
    approvals.add(plan, KEY)
    assert not approvals.require(plan.hash).frozen


def test_what_is_expired_or_stopped_does_not_run(store: SiteDatabase, plan: Plan) -> None:
    approvals = Approvals(store)
    plans = [plan, plan_titled("Another"), plan_titled("A third")]
    for each, expires in zip(plans, ("", "2020-01-01T00:00:00Z", ""), strict=True):
        approvals.add(each, KEY, expires=expires)
    approvals.end(plans[2].hash, "stopped", by="somebody")
    assert [each.plan.hash for each in approvals.running()] == [plan.hash]


class Clock(datetime):
    """What the site takes for the clock."""

    moment = datetime(2026, 3, 10, tzinfo=UTC)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        assert tz is UTC
        return cls.moment

    @classmethod
    def stands(cls, text: str) -> None:
        cls.moment = datetime.fromisoformat(f"2026-{text}+00:00")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr("client.records.approvals.datetime", Clock)
    Clock.stands("03-10T12:00:30")
    return Clock


def standing(store: SiteDatabase, plan: Plan) -> tuple[str, bool]:
    """The state that is stored, and whether the key is there."""
    row = store.execute("SELECT * FROM approvals WHERE plan_hash = ?", plan.hash).fetchone()
    return row["state"], row["study_key"] is not None


def test_what_was_found_expired_stays_so_whatever_the_clock_says_then(
    store: SiteDatabase, plan: Plan, clock: type[Clock]
) -> None:
    approvals = Approvals(store)
    clock.stands("03-10T12:00:00")
    approvals.add(plan, KEY, expires="2026-03-11T12:00:00Z")
    assert approvals.expire() == []
    clock.stands("03-11T12:00:00")
    assert approvals.is_time()
    assert approvals.expire() == [(plan.hash, plan.study.study.name)]
    assert standing(store, plan) == ("expired", False)
    clock.stands("03-10T12:00:00")
    assert not approvals.running()
    with pytest.raises(Silence, match="expired"):
        approvals.require(plan.hash)
    assert approvals.expire() == []


def test_the_newest_time_that_was_seen_says_what_is_over(
    store: SiteDatabase, plan: Plan, clock: type[Clock]
) -> None:
    """A clock that is set back by less than a day stands still until it has caught up."""
    approvals = Approvals(store)
    clock.stands("03-10T12:00:00")
    approvals.expire()
    clock.stands("03-09T13:00:00")
    approvals.add(plan, KEY, expires="2026-03-10T11:00:00Z")
    assert not approvals.running()
    assert approvals.expire() == [(plan.hash, plan.study.study.name)]


def test_where_the_clock_was_set_back_by_days_nothing_that_ends_goes_on(
    store: SiteDatabase, plan: Plan, clock: type[Clock]
) -> None:
    """When it would be over, nobody can tell; what is approved then goes by the new clock."""
    approvals, endless = Approvals(store), plan_titled("Without an end")
    clock.stands("03-10T12:00:00")
    approvals.expire()
    approvals.add(plan, KEY, expires="2026-09-10T12:00:00Z")
    approvals.add(endless, KEY)
    clock.stands("03-09T11:59:00")
    assert approvals.is_time()
    assert approvals.expire() == [(plan.hash, plan.study.study.name)]
    assert standing(store, plan) == ("expired", False)
    assert standing(store, endless) == ("approved", True)
    approvals.add(plan, KEY, expires="2026-03-19T12:00:00Z")
    clock.stands("03-19T11:00:00")
    assert approvals.expire() == []
    assert len(approvals.running()) == 2


def test_the_time_is_written_once_a_minute_and_no_more(
    store: SiteDatabase, clock: type[Clock]
) -> None:
    approvals = Approvals(store)
    assert approvals.is_time()
    approvals.expire()
    assert not approvals.is_time()
    clock.stands("03-10T12:01:00")
    assert approvals.is_time()


def test_a_plan_that_waits_for_a_person_may_not(store: SiteDatabase, plan: Plan) -> None:
    Approvals(store).add(plan)
    assert refused(Approvals(store), plan, RefusalCode.PENDING) == "pending"


def test_a_changed_plan_is_another_one(store: SiteDatabase, plan: Plan) -> None:
    approvals = Approvals(store)
    approvals.add(plan, KEY)
    changed = plan_titled("Hardly anything more")
    assert approvals.find(changed.hash) is None
    assert refused(approvals, changed) == "never proposed"


def test_closing_ends_a_study_and_erases_its_key(store: SiteDatabase, plan: Plan) -> None:
    approvals = Approvals(store)
    approvals.add(plan, KEY)
    approvals.close(plan.hash)
    assert refused(approvals, plan) == "closed"
    found = approvals.find(plan.hash)
    assert found is not None
    assert found.key is None


def test_closing_a_study_leaves_the_others(store: SiteDatabase, plan: Plan) -> None:
    approvals = Approvals(store)
    other = plan_titled("Another")
    approvals.add(plan, KEY)
    approvals.add(other, KEY)
    approvals.close(other.hash)
    approvals.close("unknown")
    assert approvals.require(plan.hash).key == KEY


def test_the_key_is_not_shown(store: SiteDatabase, plan: Plan) -> None:
    Approvals(store).add(plan, KEY)
    shown = repr(Approvals(store).find(plan.hash))
    assert repr(KEY.secret) not in shown
    assert KEY.secret.hex() not in shown
