"""How a coordinator might trick the person who decides, or learn from the decision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.administration.service import approve, deny, stop
from client.site import Site
from common.errors import SiteError
from common.plan import Plan
from common.wire.messages import Request
from tests.client.site_fixtures import Hospital, asking, code_of, plan_for, proposal
from tests.common.studies import small_study

BY = "the administrator"
STUDY = small_study()
Changes = dict[str, Any]


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    patients = {f"P{number:02}": 1 for number in range(12)}
    return Hospital(tmp_path / "north", patients, policy={"approval": "ask"}, seed=None)


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


def proposed(site: Site, title: str = "As it was shown", name: str = "small") -> Plan:
    plan = plan_for(site, small_study(study={"title": title, "name": name}))
    assert code_of(site, proposal(plan)) == "pending"
    return plan


def test_a_plan_that_came_after_the_one_that_was_read_is_not_approved_for_it(site: Site) -> None:
    read = proposed(site)
    later = proposed(site, "As nobody has read it")
    with pytest.raises(SiteError, match="several plans of this name") as caught:
        approve(site, "small", by=BY)
    assert read.hash in caught.value.details["found"]
    approve(site, "small", plan_hash=read.hash, by=BY)
    assert code_of(site, asking(read)) == "ok"
    assert code_of(site, asking(later)) == "pending"


def test_nor_where_the_one_that_was_read_was_taken_back_meanwhile(site: Site) -> None:
    read = proposed(site)
    assert code_of(site, Request("small", read.hash, 0, "close")) == "ok"
    later = proposed(site, "As nobody has read it")
    with pytest.raises(SiteError, match="not the plan that you wanted"):
        approve(site, "small", plan_hash=read.hash, by=BY)
    assert code_of(site, asking(later)) == "pending"


def test_stopping_a_study_stops_all_its_plans(site: Site, hospital: Hospital) -> None:
    first, second = proposed(site), proposed(site, "Once more")
    for plan in (first, second):
        approve(site, plan.hash, by=BY)
        assert code_of(site, asking(plan)) == "ok"
    left = stop(site, "small", by=BY)
    assert (left.rounds, left.replies) == (2, 2)
    for plan in (first, second):
        assert code_of(site, asking(plan)) == code_of(site, asking(plan, 2)) == "silence"
    assert [row["study_key"] for row in hospital.rows("approvals")] == [None, None]


def test_denying_a_study_denies_every_plan_that_waits(site: Site) -> None:
    plans = [proposed(site), proposed(site, "Once more")]
    deny(site, "small", by=BY)
    assert [code_of(site, asking(plan)) for plan in plans] == ["denied", "denied"]


PROBES: list[Changes] = [
    {"task": {"classes": ["normal", "fracture"]}},
    {"task": {"classes": ["normal", "bacterial"]}},
    {"data": {"modalities": ["PT"]}},
    {"data": {"modalities": ["NOT-THERE"]}},
]


@pytest.mark.parametrize("sections", PROBES, ids=str)
def test_nothing_tells_who_is_among_the_patients_before_a_person_consents_or_after(
    site: Site, sections: Changes
) -> None:
    """Which labels there are, and whether any patient has such an image, stays at the site."""
    plan = plan_for(site, small_study(**sections))
    assert code_of(site, proposal(plan)) == code_of(site, proposal(plan)) == "pending"
    assert approve(site, "small", by=BY).left_out == 0
    assert code_of(site, asking(plan)) == "ok"


def test_nothing_tells_who_has_no_budget_left_before_a_person_consents_or_after(
    hospital: Hospital,
) -> None:
    hospital.policy |= {"max_epsilon_total": 9.0}
    with hospital.open() as site:
        first = proposed(site)
        approve(site, "small", by=BY)
        assert code_of(site, asking(first)) == "ok"
        second = proposed(site, "Once more")
        assert approve(site, second.hash, by=BY).left_out > 0
        assert code_of(site, asking(second)) == "ok"
