"""More patients than the site file allows: its people are told, and nobody outside can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.administration.service import approve, show, status
from client.consent.decisions import freeze_pending
from client.records.approvals import NEWEST_TIME
from client.site import Site
from common.errors import SiteError
from common.wire.messages import Request
from tests.client.site_fixtures import Hospital, approved, asking, code_of, plan_for, proposal
from tests.common.studies import small_study

STUDY = small_study()


def crowded(folder: Path, *, most: int, approval: str = "automatic") -> Hospital:
    """A hospital whose 24 patients all train."""
    return Hospital(
        folder,
        declared=10,
        most=most,
        split=(1.0, 0.0, 0.0),
        policy={"approval": approval},
        seed=None,
    )


def told(site: Site) -> list[tuple[str, str]]:
    """What status says of patients beyond the bound."""
    return [each for each in status(site).warnings if "most_patients" in each[0]]


def test_a_person_is_told_and_cannot_approve(tmp_path: Path) -> None:
    hospital = crowded(tmp_path / "north", most=23, approval="ask")
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        assert code_of(site, proposal(plan)) == "pending"
        shown = dict(show(site, plan.hash).sections)
        (line,) = (each for each in shown["READ THIS FIRST"] if each.startswith("TOO MANY"))
        assert "24 in training, but most_patients is 23" in line
        with pytest.raises(SiteError, match="holds more patients than") as caught:
            approve(site, plan.hash, by="the administrator")
        assert caught.value.details["where"] == "[data.chest-xray] most_patients"
        assert "24 in training" in caught.value.details["found"]
        assert "raise most_patients" in caught.value.details["do"]
        assert code_of(site, proposal(plan)) == "pending"
        assert not hospital.rows("members")
    hospital.most = 24
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        assert code_of(site, proposal(plan)) == "pending"
        assert approve(site, plan.hash, by="the administrator").patients == 24


def test_without_a_person_those_beyond_take_no_part_and_the_people_are_told(
    tmp_path: Path,
) -> None:
    hospital = crowded(tmp_path / "north", most=23)
    with hospital.open() as site:
        plan = approved(site, STUDY)
        freeze_pending(site)
        (warning,) = told(site)
        assert "24 in training, but most_patients is 23" in warning[0]
        assert "raise most_patients in [data.chest-xray]" in warning[1]
        everyone = sorted(site.pseudonyms.of(patient) for patient in hospital.patients)
        assert sorted(row["patient"] for row in hospital.rows("members")) == everyone[:23]
        assert code_of(site, asking(plan)) == "ok"
        assert told(site) == [warning]  # work that goes well does not mend it
    hospital.most = 30
    with hospital.open() as site:
        assert told(site) == []
        approved(site, STUDY)
        freeze_pending(site)
        assert told(site) == []


def test_a_hospital_with_room_is_told_nothing(tmp_path: Path) -> None:
    with crowded(tmp_path / "north", most=24).open() as site:
        approved(site, STUDY)
        freeze_pending(site)
        assert told(site) == []


def test_what_leaves_is_the_same_with_one_patient_too_many(tmp_path: Path) -> None:
    """One at the bound and one beyond it: the same codes, lengths, ledgers and log lines."""
    seen = []
    for number, patients in enumerate((23, 24)):
        hospital = crowded(tmp_path / f"north{number}", most=23)
        if patients == 23:
            for image in hospital.folder.glob("images/P23-*.dcm"):
                image.unlink()
        with hospital.open() as site:
            plan = approved(site, STUDY)
            freeze_pending(site)
            codes = [code_of(site, asking(plan, each)) for each in (1, 2, 3)]
            codes.append(code_of(site, asking(plan, 3, "evaluate")))
            seen.append((codes, site.ledger.head().length, site.audit.head.length))
    assert seen[0] == seen[1]
    assert seen[0][0] == ["ok"] * 4


def test_nothing_of_a_plan_that_is_taken_back_is_kept(tmp_path: Path) -> None:
    """A coordinator may propose and take back any number of plans."""
    hospital = crowded(tmp_path / "north", most=23)
    with hospital.open() as site:
        plan = approved(site, STUDY)
        freeze_pending(site)
        frozen = hospital.rows("facts")
        closing = Request(plan.study.study.name, plan.hash, 0, "close")
        assert code_of(site, closing) == "ok"
        kept = hospital.rows("facts")
        assert [each for each in frozen if each not in kept]
        # What was read of the patients stays, and the next plan reads the same.
        again = approved(site, small_study(study={"name": "again"}))
        freeze_pending(site)
        assert code_of(site, Request("again", again.hash, 0, "close")) == "ok"
        assert _but_the_time(hospital.rows("facts")) == _but_the_time(kept)


def _but_the_time(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest time that a site has seen goes on with the clock."""
    return [each for each in facts if each["name"] != NEWEST_TIME]
