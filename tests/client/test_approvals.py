"""An approval binds to one plan, and its key is gone once the study is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.approvals import Approvals
from client.store import Store
from common.errors import Refusal, RefusalCode
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.randomness import StudyKey
from tests.common.studies import small_study

KEY = StudyKey(bytes(range(100, 132)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "site.sqlite") as opened:
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


def test_a_plan_with_a_key_may_run(store: Store, plan: Plan) -> None:
    Approvals(store).add(plan, KEY)
    found = Approvals(store).require(plan.hash)
    assert (found.plan, found.frozen, found.state, found.key) == (plan, "", "approved", KEY)


def test_a_plan_that_is_recorded_anew_is_frozen_anew(store: Store, plan: Plan) -> None:
    approvals = Approvals(store)
    approvals.add(plan, KEY)
    approvals.freeze(plan.hash, 3)
    found = approvals.require(plan.hash)
    assert (bool(found.frozen), found.left_out) == (True, 3)
    approvals.add(plan, KEY)
    assert not approvals.require(plan.hash).frozen


def test_what_is_expired_or_stopped_does_not_run(store: Store, plan: Plan) -> None:
    approvals = Approvals(store)
    plans = [plan, plan_titled("Another"), plan_titled("A third")]
    for each, expires in zip(plans, ("", "2020-01-01T00:00:00Z", ""), strict=True):
        approvals.add(each, KEY, expires=expires)
    approvals.end(plans[2].hash, "stopped", by="somebody")
    assert [each.plan.hash for each in approvals.running()] == [plan.hash]


def test_a_plan_that_waits_for_a_person_may_not(store: Store, plan: Plan) -> None:
    Approvals(store).add(plan)
    assert refused(Approvals(store), plan, RefusalCode.PENDING) == "pending"


def test_a_changed_plan_is_another_one(store: Store, plan: Plan) -> None:
    approvals = Approvals(store)
    approvals.add(plan, KEY)
    changed = plan_titled("Hardly anything more")
    assert approvals.find(changed.hash) is None
    assert refused(approvals, changed) == "never proposed"


def test_closing_ends_a_study_and_erases_its_key(store: Store, plan: Plan) -> None:
    approvals = Approvals(store)
    approvals.add(plan, KEY)
    approvals.close(plan.hash)
    assert refused(approvals, plan) == "closed"
    found = approvals.find(plan.hash)
    assert found is not None
    assert found.key is None


def test_closing_a_study_leaves_the_others(store: Store, plan: Plan) -> None:
    approvals = Approvals(store)
    other = plan_titled("Another")
    approvals.add(plan, KEY)
    approvals.add(other, KEY)
    approvals.close(other.hash)
    approvals.close("unknown")
    assert approvals.require(plan.hash).key == KEY


def test_the_key_is_not_shown(store: Store, plan: Plan) -> None:
    Approvals(store).add(plan, KEY)
    shown = repr(Approvals(store).find(plan.hash))
    assert repr(KEY.secret) not in shown
    assert KEY.secret.hex() not in shown
