"""What was read of hospitals is there for the next run of any seed, and for runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.data import archive
from client.data.archive import Scan
from client.data.cohort import Cohort
from client.site import Site
from common.study.study_file import Study
from simulations.archives import decoded
from simulations.archives.decoded import DecodedFolder, decoded_beside
from simulations.grids.grid import SiteDescription
from tests.client.site_fixtures import Hospital, write_image
from tests.common.studies import small_study


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    found = Hospital(tmp_path / "north")
    found.open().close()  # writes the site file
    return found


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose headers are read."""
    found: list[Path] = []

    def watched(folder: Path, **options: object) -> Scan:
        found.append(folder)
        return archive.scan(folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(decoded, "scan", watched)
    return found


def opened(hospital: Hospital, seed: int) -> Site:
    folder = hospital.folder
    return SiteDescription(
        "north", folder / "site.toml", folder / f"state-{seed}", seed, decoded=folder / ".decoded"
    ).open()


def read(hospital: Hospital, seed: int, study: Study) -> Cohort:
    with opened(hospital, seed) as site:
        return site.cohorts.read(study)


def pictures(cohort: Cohort) -> list[bytes]:
    """What each patient's images are, in an order of their own."""
    return sorted(
        np.ascontiguousarray(cohort.images[list(each.images)]).tobytes() for each in cohort.patients
    )


def test_another_seed_reads_no_header_and_decodes_no_image_again(
    hospital: Hospital, scans: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    first = read(hospital, 1, study)
    assert len(scans) == 1

    def decoding(*_: object, **__: object) -> None:
        pytest.fail("an image was decoded again")

    monkeypatch.setattr("client.data.cache.decode", decoding)
    second = read(hospital, 2, study)
    assert len(scans) == 1
    assert pictures(first) == pictures(second)
    assert {each.pseudonym for each in first.patients} != {
        each.pseudonym for each in second.patients
    }
    assert [path.name for path in hospital.folder.glob("state-*")] == []


def test_what_another_run_has_mapped_is_not_deleted_when_the_folder_grows(
    hospital: Hospital, scans: list[Path]
) -> None:
    first = read(hospital, 1, small_study())
    before = pictures(first)
    data = Path(str(getattr(first.images, "filename", "")))
    instance = write_image(hospital.folder / "images" / "new.dcm", "P99", 1)
    with (hospital.folder / "labels.csv").open("a") as labels:
        labels.write(f"{instance},normal\n")
    second = read(hospital, 2, small_study())
    assert len(scans) == 2  # a file more
    assert len(second.patients) == len(first.patients) + 1
    assert data.exists()
    assert set(before) < set(pictures(second))
    assert pictures(first) == before


def test_a_file_that_changed_is_read_again(hospital: Hospital, scans: list[Path]) -> None:
    read(hospital, 1, small_study())
    write_image(hospital.folder / "images" / "P00-0.dcm", "P00", 7)
    read(hospital, 1, small_study())
    assert len(scans) == 2


def test_what_cannot_be_remembered_is_read_each_time(hospital: Hospital, scans: list[Path]) -> None:
    (hospital.folder / "images" / "nowhere.dcm").symlink_to("gone")  # unreadable for now
    for _ in range(2):
        read(hospital, 1, small_study())
    assert len(scans) == 2


def test_a_folder_that_may_not_be_written_has_it_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allowed(writable: bool) -> Callable[[Path, int], bool]:
        return lambda _path, _mode: writable

    monkeypatch.setattr("os.access", allowed(True))
    assert decoded_beside(tmp_path / "h", tmp_path / "run").parent == tmp_path / "h"
    monkeypatch.setattr("os.access", allowed(False))
    assert decoded_beside(tmp_path / "h", tmp_path / "run").parent == tmp_path / "run"


def test_what_another_user_decoded_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "h" / ".decoded" / "north"
    theirs.mkdir(parents=True)
    assert decoded_beside(tmp_path / "h", tmp_path / "run").parent == tmp_path / "h"
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != theirs)
    assert decoded_beside(tmp_path / "h", tmp_path / "run").parent == tmp_path / "run"
    assert DecodedFolder.of(tmp_path / "x", "north").cache == tmp_path / "x" / "north"
