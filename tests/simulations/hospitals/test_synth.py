from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from client.data.dicom import Reason, Rules
from client.data.labels import LabelFile
from client.data.report import Report, check
from client.sitefile import load_site_file
from common.errors import DataError
from simulations.archives.manifest import read_hospitals
from simulations.hospitals.synth import CLASSES, DATASET, Size, write_synthetic
from simulations.hospitals.unusable import KINDS

SMALL = Size(patients=14, test_patients=12, pixels=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("synth") / "hospitals"
    return out, write_synthetic(out, SMALL, seed=3)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def report(out: Path, site: str) -> Report:
    """What the site itself would find."""
    file = load_site_file(out / site / "site.toml")
    labels = file.label_file(DATASET, out / site)
    return check(out / site / "images", labels, classes=CLASSES, rules=Rules(("CR", "DX")))


@pytest.mark.parametrize("site", ["north", "east", "south", "west"])
def test_a_site_finds_every_patient_and_every_kind_of_unusable_file(
    made: tuple[Path, dict[str, Any]], site: str
) -> None:
    out, manifest = made
    found = report(out, site)
    facts = manifest["per_site"][site]
    assert found.patients == facts["patients"] == SMALL.patients
    assert found.images == facts["images"]
    assert found.patients_by_label == facts["labels"]
    assert facts["unusable"] == dict.fromkeys(sorted(KINDS), 1)
    assert {reason: count for reason, count in found.reasons.items() if count} == {
        Reason.NOT_DICOM: 1,
        Reason.NO_PIXELS: 1,
        Reason.UNDECODABLE: 1,
        Reason.WRONG_MODALITY: 1,
        Reason.DERIVED: 2,
        Reason.BURNED_IN: 1,
        Reason.NO_PATIENT_ID: 1,
        Reason.NO_LABEL: 1,
    }


def test_the_manifest_is_what_a_run_reads(made: tuple[Path, dict[str, Any]]) -> None:
    out, manifest = made
    hospitals = read_hospitals(out)
    assert hospitals.kind == "synth"
    assert hospitals.seed == 3
    assert hospitals.sites == ("east", "north", "south", "west")
    assert hospitals.redraws == 0
    assert manifest["per_site"]["north"]["declared_patients"] == 10
    labels = hospitals.test_targets("label")
    assert isinstance(labels, LabelFile)
    assert labels.key == "SOPInstanceUID"
    found = check(hospitals.test_images, labels, classes=CLASSES, rules=Rules(("CR", "DX")))
    assert found.patients == SMALL.test_patients
    assert not found.rejected
    assert min(found.patients_by_label.values()) >= 4


def test_every_way_to_name_labels_is_there(made: tuple[Path, dict[str, Any]]) -> None:
    out, manifest = made
    keys = {load_site_file(out / s / "site.toml").data[DATASET].key for s in manifest["sites"]}
    assert keys == {"SOPInstanceUID", "StudyInstanceUID", "PatientID", "filename"}


@pytest.mark.filterwarnings("ignore:End of file reached")  # the truncated files
def test_archives_differ_as_those_of_different_makers_do(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, manifest = made
    kept = [
        dcmread(path)
        for site in manifest["sites"]
        for path in sorted((out / site / "images").rglob("*"))
        if path.is_file() and path.name != "README.txt"
    ]
    images = [each for each in kept if "PixelData" in each and each.Modality in ("CR", "DX")]
    assert len({each.Manufacturer for each in images}) == 4
    assert {each.Modality for each in images} == {"CR", "DX"}
    assert len({each.file_meta.TransferSyntaxUID for each in images}) == 5
    assert {each.BitsStored for each in images} == {8, 10, 12, 16}
    assert {each.PixelRepresentation for each in images} == {0, 1}
    assert {each.PhotometricInterpretation for each in images} == {"MONOCHROME1", "MONOCHROME2"}
    assert any("VOILUTSequence" in each for each in images)
    assert any("RescaleSlope" in each for each in images)
    endings = {path.suffix for path in out.rglob("images/**/*") if path.is_file()}
    assert "" in endings
    assert ".dcm" in endings


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_no_patient_stands_in_two_archives_and_some_have_several_images(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, manifest = made
    patients: dict[str, set[str]] = {}
    files = 0
    for name in (*manifest["sites"], "test"):
        paths = [path for path in (out / name / "images").rglob("*") if path.is_file()]
        found = [dcmread(path) for path in paths if path.name != "README.txt"]
        patients[name] = {str(each.get("PatientID", "")) for each in found} - {""}
        files += len(found)
    together = [patient for group in patients.values() for patient in group]
    assert len(together) == len(set(together))
    assert files > len(together)


def test_the_same_seed_gives_the_same_bytes(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_synthetic(tmp_path / "again", SMALL, seed=3)
    assert tree(tmp_path / "again") == tree(made[0])


def test_another_seed_gives_other_patients(tmp_path: Path) -> None:
    small = Size(patients=13, test_patients=2, pixels=32, sites=1)
    for seed in (0, 1):
        write_synthetic(tmp_path / str(seed), small, seed=seed)
    assert not set(tree(tmp_path / "0" / "test").values()) & set(
        tree(tmp_path / "1" / "test").values()
    )


def test_a_site_is_the_same_whatever_other_sites_there_are(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_synthetic(tmp_path / "one", Size(14, 2, 32, sites=1), seed=3)
    assert tree(tmp_path / "one" / "north") == tree(made[0] / "north")


def test_more_than_four_sites_have_numbers(tmp_path: Path) -> None:
    manifest = write_synthetic(tmp_path / "six", Size(13, 8, 32, sites=6), seed=0)
    assert manifest["sites"] == ["north", "east", "south", "west", "site-05", "site-06"]
    assert load_site_file(tmp_path / "six" / "site-06" / "site.toml").site.name == "site-06"


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("patients", "--patients"),
        ("test_patients", "--test-patients"),
        ("pixels", "--size"),
        ("sites", "--sites"),
    ],
)
def test_a_number_too_small_is_an_error_that_names_the_option(field: str, option: str) -> None:
    with pytest.raises(DataError, match=option):
        Size(**{field: 0})
