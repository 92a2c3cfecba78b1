from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from client.data.cohort import Cohort
from client.site import open_site
from client.sitefile import load_site_file
from common.errors import DataError
from common.process.progress import silent
from common.study.study_file import Study, load_study
from simulations.archives.manifest import Hospitals, read_hospitals
from simulations.audit.audit_settings import CanaryKind
from simulations.audit.canaries import Canary, insert, make
from simulations.runs.testset import TestSet, load_test_set
from tests.integration.conftest import SITES, study_text, write_hospitals

SEED = 3
EACH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def hospitals(folder: Path) -> Hospitals:
    write_hospitals(folder / "hospitals")
    return read_hospitals(folder / "hospitals")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    (folder / "study.toml").write_text(study_text())
    return load_study(folder / "study.toml")


@pytest.fixture(scope="module")
def test_set(folder: Path, study: Study, hospitals: Hospitals) -> TestSet:
    decoded = folder / "decoded"
    return load_test_set(study, hospitals, seed=SEED, decoded=decoded, workers=1, progress=silent)


@pytest.fixture(scope="module", params=list(CanaryKind))
def kind(request: pytest.FixtureRequest) -> CanaryKind:
    return CanaryKind(request.param)


@pytest.fixture(scope="module")
def made(
    study: Study, hospitals: Hospitals, test_set: TestSet, kind: CanaryKind
) -> dict[str, tuple[Canary, ...]]:
    return make(study, hospitals, count=EACH, kind=kind, seed=SEED, test=test_set)


@pytest.fixture(scope="module")
def cohort(
    folder: Path,
    study: Study,
    hospitals: Hospitals,
    made: dict[str, tuple[Canary, ...]],
    kind: CanaryKind,
) -> Cohort:
    """What the first hospital reads once the canaries are in."""
    copy = folder / f"with-{kind}"
    insert(copy, study, hospitals, made)
    with open_site(copy / SITES[0] / "site.toml", folder / f"state-{kind}", SEED) as site:
        return site.cohorts.read(study)


def test_every_hospital_gets_its_own_canaries_and_about_half_are_in(
    made: dict[str, tuple[Canary, ...]],
) -> None:
    assert {site: len(canaries) for site, canaries in made.items()} == dict.fromkeys(SITES, EACH)
    everyone = [one for canaries in made.values() for one in canaries]
    assert len({one.patient for one in everyone}) == len(everyone)
    assert 8 <= sum(one.inside for one in everyone) <= 28


def test_canaries_that_are_in_train_and_those_that_are_out_are_nowhere(
    made: dict[str, tuple[Canary, ...]],
    study: Study,
    hospitals: Hospitals,
    cohort: Cohort,
    folder: Path,
) -> None:
    with open_site(hospitals.site_file(SITES[0]), folder / "state", SEED) as site:
        before = site.cohorts.read(study)
    inside = sum(one.inside for one in made[SITES[0]])

    assert len(cohort.part("train")) == len(before.part("train")) + inside
    assert len(cohort.part("validation")) == len(before.part("validation"))


def test_copies_may_hold_the_canaries_too_and_the_hospitals_promise_stays(
    cohort: Cohort, study: Study, hospitals: Hospitals, folder: Path, kind: CanaryKind
) -> None:
    assert cohort.patients
    for site in SITES:
        path = hospitals.site_file(site)
        before = load_site_file(path).data[study.data.dataset]
        after = load_site_file(folder / f"with-{kind}" / site / path.name).data[study.data.dataset]
        assert after.most_patients == before.most_patients + EACH
        assert after.declared_patients == before.declared_patients


def test_a_hospital_that_does_not_say_how_many_it_may_hold_gets_none(
    tmp_path: Path, study: Study, hospitals: Hospitals, made: dict[str, tuple[Canary, ...]]
) -> None:
    shutil.copytree(hospitals.folder, tmp_path / "hospitals")
    path = tmp_path / "hospitals" / SITES[0] / "site.toml"
    kept = [line for line in path.read_text().splitlines() if "most_patients" not in line]
    path.write_text("\n".join(kept))
    with pytest.raises(DataError, match="does not set most_patients"):
        insert(tmp_path / "copy", study, read_hospitals(tmp_path / "hospitals"), made)


def test_a_site_reads_the_picture_and_the_label_that_a_canary_has(
    made: dict[str, tuple[Canary, ...]], cohort: Cohort
) -> None:
    inside = [one for one in made[SITES[0]] if one.inside]

    for canary in inside:
        apart = np.abs(cohort.images - canary.picture).max(axis=(1, 2, 3))
        row = int(apart.argmin())
        label = next(patient.label for patient in cohort.patients if row in patient.images)
        assert apart[row] < 2e-3
        assert label == canary.label


def test_the_hospitals_themselves_stay_as_they_are(cohort: Cohort, hospitals: Hospitals) -> None:
    del cohort  # canaries are in the copy
    assert not list(hospitals.folder.rglob("CANARY*"))
    assert "CANARY" not in (hospitals.folder / SITES[0] / "labels.csv").read_text()
    assert len((hospitals.folder / SITES[0] / "labels.csv").read_text().splitlines()) == 41


def test_the_same_seed_makes_the_same_canaries(
    study: Study,
    hospitals: Hospitals,
    test_set: TestSet,
    made: dict[str, tuple[Canary, ...]],
    kind: CanaryKind,
) -> None:
    again = make(study, hospitals, count=EACH, kind=kind, seed=SEED, test=test_set)

    for one, other in zip(made[SITES[1]], again[SITES[1]], strict=True):
        assert (one.patient, one.label, one.inside) == (other.patient, other.label, other.inside)
        assert np.array_equal(one.picture, other.picture)


def test_mislabelled_canaries_bear_another_label_than_their_image(
    study: Study, hospitals: Hospitals, test_set: TestSet
) -> None:
    """The bright square of the second class is brighter by far."""
    made = make(study, hospitals, count=EACH, kind=CanaryKind.MISLABELLED, seed=SEED, test=test_set)

    for one in made[SITES[0]]:
        is_bright = one.picture[0, 4:12, 4:12].mean() > 0.35
        assert one.label == int(not is_bright)


def test_more_mislabelled_canaries_than_test_patients_are_refused(
    study: Study, hospitals: Hospitals, test_set: TestSet
) -> None:
    with pytest.raises(DataError, match="too few patients for this number of mislabelled"):
        make(study, hospitals, count=50, kind=CanaryKind.MISLABELLED, seed=SEED, test=test_set)
