"""What a site reads of its patients: once, as the files and lists are now."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from client.administration.service import approve, opt_out, status
from client.records.accounts import Accounts
from client.site import Site
from common.errors import DataError, Refusal, RefusalCode, SiteError
from common.wire.messages import Request
from tests.client.site_fixtures import Hospital, approved, asking, code_of, write_images, write_mask
from tests.common.studies import small_study, study_of


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


def test_a_folder_of_masks_that_was_exchanged_is_the_sites_failure_and_nobodys(
    tmp_path: Path,
) -> None:
    """A share that was unmounted leaves an empty folder behind: nobody has lost a mask."""
    study = study_of("segmentation")
    hospital = Hospital(tmp_path, {f"P{number:02}": 1 for number in range(8)}, masks=True)
    masks = tmp_path / "masks"
    for patient in hospital.patients:
        write_mask(masks / f"{patient}-0.png", patient, 0)
    with hospital.open() as site:
        assert len(site.cohorts.read(study).patients) == 8
        masks.rename(tmp_path / "away")
        masks.mkdir()
        with pytest.raises(DataError, match="mask folder was replaced"):
            site.cohorts.read(study)
        masks.rmdir()
        (tmp_path / "away").rename(masks)
        assert len(site.cohorts.read(study).patients) == 8


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


def test_a_folder_whose_name_is_no_text_is_read_as_any_other(tmp_path: Path) -> None:
    """As a file server in Latin-1 names it."""
    hospital = Hospital(tmp_path / os.fsdecode(b"R\xf6ntgen"), {"P00": 1, "P01": 1})
    with hospital.open() as site:
        assert len(site.cohorts.read(small_study()).patients) == 2


def test_without_anybody_left_a_cohort_is_empty(hospital: Hospital) -> None:
    with hospital.open() as site:
        cohort = site.cohorts.read(small_study(data={"modalities": ["PT"]}))
    assert cohort.patients == ()
    assert cohort.images.shape == (0, 1, 8, 8)


def account_of(site: Site, patient: str) -> npt.NDArray[np.float64]:
    accounts = Accounts(site.store)
    return accounts.paid(accounts.history(patient))


def test_spellings_that_were_charged_apart_have_one_account_with_all_that_they_paid(
    hospital: Hospital,
) -> None:
    """Each paid for a study of its own, and the files of one were spelt anew before the rule."""
    hospital.split = (1.0, 0.0, 0.0)
    for number, names in enumerate((("P01", "P02"), ("p01", "P02"), ("P02", "P\u00a001"))):
        shutil.rmtree(hospital.folder / "images")
        write_images(hospital.folder, dict.fromkeys(names, 1))
        if number < 2:
            with hospital.open() as site:
                plan = approved(site, small_study(study={"title": f"Study {number}"}))
                assert code_of(site, asking(plan, number + 1)) == "ok"
                assert code_of(site, Request("small", plan.hash, 3, "close")) == "ok"
                paid = {name: account_of(site, site.pseudonyms.of(name)) for name in ("P01", "p01")}
    assert paid["P01"].all()
    assert paid["p01"].all()
    hospital.ignored = ("case", "blanks")
    with hospital.open() as site:
        patients = {each.pseudonym for each in site.cohorts.read(small_study()).patients}
        assert patients == {site.pseudonyms.of("P01"), site.pseudonyms.of("P02")}
        together = account_of(site, site.pseudonyms.of("P01"))
        np.testing.assert_allclose(together, paid["P01"] + paid["p01"])
    hospital.ignored = ()
    with hospital.open() as site:  # apart again, each keeps what both had paid
        site.cohorts.read(small_study())
        for name in ("P01", "p01", "P\u00a001"):
            np.testing.assert_array_equal(account_of(site, site.pseudonyms.of(name)), together)


def test_an_opt_out_of_one_spelling_is_one_of_all_and_stays_when_the_rule_goes(
    hospital: Hospital,
) -> None:
    write_images(hospital.folder, {**hospital.patients, "p01": 1})
    hospital.ignored = ("case", "leading-zeros")
    with hospital.open() as site:
        assert len(site.cohorts.read(small_study()).patients) == 8
        outcome = opt_out(site, ["00p01"], by="the administrator")
        assert len(site.cohorts.read(small_study()).patients) == 7
        assert outcome.added == 1
    hospital.ignored = ()
    with hospital.open() as site:
        gone = {site.pseudonyms.of(name) for name in ("P01", "p01")}
        assert not gone & {each.pseudonym for each in site.cohorts.read(small_study()).patients}


def test_a_listed_spelling_that_no_file_has_keeps_its_patient_out_without_the_rule_too(
    hospital: Hospital,
) -> None:
    (hospital.folder / "state").mkdir()
    (hospital.folder / "state" / "opt-out.txt").write_text("0P01\n")
    counts = []
    for hospital.ignored in ((), ("leading-zeros",), ()):
        with hospital.open() as site:
            counts.append(len(site.cohorts.read(small_study()).patients))
    assert counts == [8, 7, 7]


def test_who_was_told_apart_is_one_patient_with_all_images_and_the_list_of_persons_follows(
    hospital: Hospital,
) -> None:
    write_images(hospital.folder, {**hospital.patients, "p01": 2})
    (hospital.folder / "same-person.csv").write_text("00p01,P03\n")
    hospital.same_person, hospital.ignored = "same-person.csv", ("leading-zeros", "case")
    with hospital.open() as site:
        cohort = site.cohorts.read(small_study())
        images = {each.pseudonym: len(each.images) for each in cohort.patients}
        assert images[site.pseudonyms.of("P01")] == 4
        assert len(images) == 7


def test_a_frozen_cohort_does_not_change_with_the_rule_and_the_study_waits_for_a_person(
    hospital: Hospital,
) -> None:
    write_images(hospital.folder, {**hospital.patients, "p01": 1})
    hospital.split = (1.0, 0.0, 0.0)
    study = small_study(privacy={"epsilon": 1.0})
    with hospital.open() as site:
        plan = approved(site, study)
        assert code_of(site, asking(plan)) == "ok"
    before = hospital.rows("members")
    hospital.ignored = ("case",)
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2)) == "silence"
        with pytest.raises(SiteError, match="another way than when this study was approved"):
            site.cohorts.of(site.approvals.require(plan.hash))
        (warning,) = (each for each in status(site).warnings if "tells patients apart" in each[0])
        assert "ignore_in_patient_ids = []" in warning[1]
        assert "consilium-site approve small" in warning[1]
    assert hospital.rows("members") == before
    assert len(hospital.rows("charges")) == 1
    hospital.ignored = ()
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2)) == "ok"
        assert hospital.rows("members") == before
    hospital.policy = {"max_epsilon_per_study": 20.0}
    hospital.ignored = ("case", "leading-zeros")
    with hospital.open() as site:
        approve(site, "small", by="the administrator")
        assert code_of(site, asking(plan, 3)) == "ok"
        there = {row["patient"] for row in hospital.rows("members") if row["until"] is None}
        assert there == set(map(site.pseudonyms.of, hospital.patients))
        outcome = opt_out(site, ["00p01"], by="the administrator")
        assert (outcome.left, outcome.unknown) == (("small",), ())
