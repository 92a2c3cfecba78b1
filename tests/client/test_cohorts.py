"""What a site reads of its patients: once, as the files and lists are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import Refusal, RefusalCode, SiteError
from tests.client.site_fixtures import Hospital
from tests.common.studies import small_study


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path, {f"P{number:02}": 1 for number in range(8)})


def test_a_data_set_that_is_not_there_is_refused_with_those_that_are(hospital: Hospital) -> None:
    with hospital.open() as site, pytest.raises(Refusal) as caught:
        site.cohorts.read(small_study(data={"dataset": "hand"}))
    assert caught.value.code is RefusalCode.DATA_UNAVAILABLE
    assert caught.value.details["found"] == "chest-xray"


def test_a_cohort_is_read_once_and_once_more_for_other_needs(hospital: Hospital) -> None:
    with hospital.open() as site:
        cohort = site.cohorts.read(small_study())
        assert site.cohorts.read(small_study(training={"rounds": 2})) is cohort
        larger = site.cohorts.read(small_study(data={"image_size": [12, 10]}))
    assert cohort.images.shape == (8, 1, 8, 8)
    assert larger.images.shape == (8, 1, 12, 10)
    assert [each.pseudonym for each in larger.patients] == [
        each.pseudonym for each in cohort.patients
    ]


def test_no_more_cohorts_are_held_than_a_site_works_on(hospital: Hospital) -> None:
    """What was read is not read again at once, but the first of many is."""
    studies = [small_study(data={"min_patients": 1, "image_size": [8, 8 * n]}) for n in (1, 2, 3)]
    with hospital.open() as site:
        first, second, third = (site.cohorts.read(study) for study in studies)
        assert site.cohorts.read(studies[1]) is second
        assert site.cohorts.read(studies[2]) is third
        assert site.cohorts.read(studies[0]) is not first
        assert site.cohorts.read(studies[2]) is third


def test_identifiers_that_the_site_joins_are_one_patient_from_the_next_look_on(
    hospital: Hospital,
) -> None:
    hospital.same_person = "same-person.csv"
    path = hospital.folder / "same-person.csv"
    path.write_text("P01,P03\n")
    with hospital.open() as site:
        first = {
            each.pseudonym: len(each.images) for each in site.cohorts.read(small_study()).patients
        }
        path.write_text("P01,P03\nP05,P03\n")
        second = {
            each.pseudonym: len(each.images) for each in site.cohorts.read(small_study()).patients
        }
        person, gone = site.pseudonyms.of("P01"), site.pseudonyms.of("P05")
        assert (first[person], second[person]) == (2, 3)
        assert gone in first.keys() - second.keys()
        site.cohorts.opt_outs.add(["P05"])
        assert person not in {each.pseudonym for each in site.cohorts.read(small_study()).patients}
        path.unlink()
        with pytest.raises(SiteError, match="same person"):
            site.cohorts.read(small_study())


def test_without_anybody_left_a_cohort_is_empty(hospital: Hospital) -> None:
    with hospital.open() as site:
        cohort = site.cohorts.read(small_study(data={"modalities": ["PT"]}))
    assert cohort.patients == ()
    assert cohort.images.shape == (0, 1, 8, 8)
