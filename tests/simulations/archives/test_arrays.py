"""Hospitals as arrays: each has its own rows, and what does not fit a study is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.cohort import Split
from client.data.pseudonyms import Pseudonyms
from common.errors import DataError, StudyError
from common.study.study_file import load_study
from simulations.archives.arrays import IMAGES, TARGETS, ArrayRows, mapped
from simulations.archives.manifest import TEST, Hospitals
from simulations.grids.grid import SiteDescription
from tests.simulations.squares import part, square_hospitals, square_study

KEY = Pseudonyms(bytes(32))
WHOLE = Split(1.0, 0.0, 0.0)


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    return square_hospitals(tmp_path / "hospitals", sites=3, patients=12)


def rows_of(hospitals: Hospitals, name: str) -> ArrayRows:
    found = hospitals.part(name)
    assert found is not None
    return found


def test_a_hospital_has_its_own_patients_and_no_others(
    hospitals: Hospitals, tmp_path: Path
) -> None:
    study = load_study(square_study(tmp_path / "study.toml"))
    for number, name in enumerate(hospitals.sites):
        cohort = rows_of(hospitals, name).cohort(study, KEY, WHOLE)
        given = part(12, number)
        assert len(cohort.patients) == 12
        assert sorted(each.label for each in cohort.patients) == sorted(given.labels.tolist())
        wanted = (given.images[:, None] / np.float32(255)).astype(np.float16)
        assert np.array_equal(cohort.images, wanted)
    assert len(rows_of(hospitals, TEST).cohort(study, KEY, WHOLE).patients) == 30


def test_another_image_or_label_is_another_record(hospitals: Hospitals, tmp_path: Path) -> None:
    study = load_study(square_study(tmp_path / "study.toml"))

    def digests() -> list[str]:
        cohort = rows_of(hospitals, "site-000").cohort(study, KEY, WHOLE)
        return [each.digest for each in cohort.patients]

    before = digests()
    images = np.load(hospitals.folder / IMAGES)
    images[3, 0, 0, 0] += 0.5
    np.save(hospitals.folder / IMAGES, images)
    assert sum(one != other for one, other in zip(before, digests(), strict=True)) == 1
    targets = np.load(hospitals.folder / TARGETS)
    targets[5] = 1 - targets[5]
    np.save(hospitals.folder / TARGETS, targets)
    assert sum(one != other for one, other in zip(before, digests(), strict=True)) == 2


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"image_size": [16, 16], "min_patients": 1}},
        {"data": {"image_size": [8, 8], "channels": 3, "min_patients": 1}},
    ],
    ids=["size", "channels"],
)
def test_what_does_not_fit_the_study_is_told(
    hospitals: Hospitals, tmp_path: Path, sections: dict[str, dict[str, object]]
) -> None:
    study = load_study(square_study(tmp_path / "study.toml", **sections))
    with pytest.raises(StudyError, match="arrays"):
        rows_of(hospitals, "site-000").cohort(study, KEY, WHOLE)


@pytest.mark.parametrize("targets", [np.full(66, 2), np.full(66, 0.5)], ids=["class", "number"])
def test_a_target_that_the_study_cannot_learn_is_told(
    hospitals: Hospitals, tmp_path: Path, targets: NDArray[Any]
) -> None:
    study = load_study(square_study(tmp_path / "study.toml"))
    np.save(hospitals.folder / TARGETS, targets)
    with pytest.raises(StudyError, match="do not show what the study learns"):
        rows_of(hospitals, "site-000").cohort(study, KEY, WHOLE)


def test_a_damaged_array_and_rows_that_are_not_there_are_told(hospitals: Hospitals) -> None:
    with pytest.raises(DataError, match="rows"):
        mapped(hospitals.folder / IMAGES, (0, 10_000))
    (hospitals.folder / "damaged.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="cannot be read"):
        mapped(hospitals.folder / "damaged.npy", (0, 1))


def test_who_opted_out_is_no_part_of_it(hospitals: Hospitals, tmp_path: Path) -> None:
    study = load_study(square_study(tmp_path / "study.toml"))
    state = tmp_path / "state"
    state.mkdir()
    (state / "opt-out.txt").write_text("site-000-4\n")
    described = SiteDescription(
        "site-000", hospitals.site_file("site-000"), state, 1, rows=hospitals.part("site-000")
    )
    with described.open() as site:
        cohort = site.cohorts.read(study)
        assert len(cohort.patients) == 11
        assert site.pseudonyms.of("site-000-4") not in {each.pseudonym for each in cohort.patients}
