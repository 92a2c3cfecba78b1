"""A ledger whose charges were made cheaper, or whose plans were, is not believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.records.verify import Verdict, inspect_state
from client.site import Site
from common.study.study_file import Study
from tests.client.site_fixtures import Hospital, answered, approved, asking
from tests.common.studies import small_study

STUDY = small_study()
EVALUATED = 3
"""The first round after which the study evaluates; charge 4 of the ledger."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Hospital(tmp_path / "north", policy={"allow_no_privacy": True}).open() as opened:
        yield opened


def charged(site: Site, study: Study) -> None:
    plan = approved(site, study)
    for number in range(1, EVALUATED + 1):
        assert answered(site, asking(plan, number)).code == "ok"
    assert EVALUATED in study.evaluation_rounds
    assert answered(site, asking(plan, EVALUATED, "evaluate")).code == "ok"


def inspected(site: Site) -> Verdict:
    return inspect_state(site.state, "north")


@pytest.mark.parametrize("study", [STUDY, small_study(privacy={"mode": "none"})])
def test_what_was_charged_is_what_the_plan_says(site: Site, study: Study) -> None:
    charged(site, study)
    assert (inspected(site).faults, inspected(site).charges) == ((), 4)


@pytest.mark.parametrize("charge", [2, 4])
@pytest.mark.parametrize(
    "cheaper",
    ["count = count + 1", "noise_multiplier = 500.0", "sampling_rate = sampling_rate / 2"],
)
def test_a_charge_that_was_made_cheaper_is_found(site: Site, charge: int, cheaper: str) -> None:
    charged(site, STUDY)
    site.store.execute(f"UPDATE charges SET {cheaper} WHERE length = ?", charge)
    assert [str(each) for each in inspected(site).faults] == [
        f"site.sqlite, line {charge}: its cost was changed: its plan states another"
    ]


def test_a_whole_ledger_that_was_made_cheaper_is_found(site: Site) -> None:
    charged(site, STUDY)
    site.store.execute("UPDATE charges SET count = 1, noise_multiplier = 500.0")
    assert [each.line for each in inspected(site).faults] == [1, 2, 3, 4]


def test_a_charge_that_nothing_bounded_is_not_made_to_look_bounded(site: Site) -> None:
    charged(site, small_study(privacy={"mode": "none"}))
    site.store.execute(
        "UPDATE charges SET sampling_rate = 0.1, noise_multiplier = 500.0 WHERE length = 1"
    )
    assert [each.line for each in inspected(site).faults] == [1]


def test_a_plan_that_was_changed_under_its_hash_is_found_with_or_without_charges(
    site: Site,
) -> None:
    """Else a cheaper plan would make cheaper charges look right."""
    approved(site, small_study(study={"name": "other"}))
    charged(site, STUDY)
    assert inspected(site).sound
    changed = "UPDATE approvals SET plan = replace(plan, 'noise_multiplier\":', ?)"
    site.store.execute(changed, 'noise_multiplier":5')
    faults = inspected(site).faults
    assert [each.line for each in faults] == [1, 2, 3, 4, 1, 2]
    assert all("its plan is missing, was changed" in each.what for each in faults[:4])
    assert all(each.what.startswith("plan ") for each in faults[4:])


@pytest.mark.parametrize("change", ["since = 5", "until = 5", "since = -1", "until = 0, since = 0"])
def test_a_stay_that_no_ledger_of_this_length_can_hold_is_found(site: Site, change: str) -> None:
    """But for one that was made as if it had paid nothing: accounts are not signed."""
    charged(site, STUDY)
    site.store.execute(f"UPDATE members SET {change} WHERE rowid = 3")
    found = [each.line for each in inspected(site).faults]
    assert found == ([] if "until = 0" in change else [3])
