from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread

from common.errors import DataError
from simulations.archives.manifest import read_hospitals
from simulations.hospitals.masked_npz import (
    Arrays,
    MaskedSource,
    join_small,
    read_masked,
    write_masked,
)

SHAPE = (6, 5)
INSTITUTIONS = {"AB": 14, "CD": 11, "EF": 1, "GH": 12}


def content() -> dict[str, np.ndarray]:
    """Three images a patient, in no order; every second patient has a tumour in some."""
    rng = np.random.default_rng(0)
    patients = [(f"{site}-{n}", site) for site, count in INSTITUTIONS.items() for n in range(count)]
    rows = [patients[place] for place in rng.permutation(np.repeat(np.arange(len(patients)), 3))]
    return {
        "images": rng.integers(0, 256, (len(rows), *SHAPE)).astype(np.uint8),
        "masks": rng.integers(0, 2, (len(rows), *SHAPE)).astype(np.uint8),
        "patient": np.array([patient for patient, _ in rows]),
        "site": np.array([site for _, site in rows]),
    }


def save(folder: Path, **changes: npt.NDArray[Any] | None) -> Path:
    kept: dict[str, Any] = {**content(), **changes}
    np.savez(folder / "tumours.npz", **{k: v for k, v in kept.items() if v is not None})
    return folder / "tumours.npz"


def source(folder: Path, **changes: npt.NDArray[Any] | None) -> MaskedSource:
    return read_masked(save(folder, **changes), classes=["tumour"])


def patients_of(out: Path, site: str) -> dict[str, set[bytes]]:
    """Images with their masks, by the patient ids in the files."""
    found: dict[str, set[bytes]] = {}
    for path in (out / site / "images").rglob("*.dcm"):
        image = dcmread(path)
        inside = path.relative_to(out / site / "images").with_suffix(".png")
        with Image.open(out / site / "masks" / inside) as mask:
            pair = image.pixel_array.tobytes() + np.asarray(mask).tobytes()
        found.setdefault(image.PatientID, set()).add(pair)
    return found


def pairs(data: dict[str, np.ndarray]) -> dict[str, set[bytes]]:
    """The same of the file."""
    found: dict[str, set[bytes]] = {}
    for image, mask, patient in zip(data["images"], data["masks"], data["patient"], strict=True):
        found.setdefault(str(patient), set()).add(image.tobytes() + mask.tobytes())
    return found


def test_every_patient_is_at_their_institution_or_in_the_test_set_with_their_masks(
    tmp_path: Path,
) -> None:
    manifest = write_masked(tmp_path / "out", source(tmp_path), seed=0)
    assert manifest["sites"] == ["ab", "cd", "gh"]
    wanted = pairs(content())
    left = dict(wanted)
    for site in (*manifest["sites"], "test"):
        for images in patients_of(tmp_path / "out", site).values():
            (patient,) = (each for each, same in left.items() if same == images)
            del left[patient]
            # CD has the fewest patients of those that have enough.
            home = "CD" if patient.startswith("EF") else patient[:2]
            assert site in (home.lower(), "test")
    assert left == {}


def test_an_institution_with_too_few_patients_is_joined_and_it_is_said(tmp_path: Path) -> None:
    manifest = write_masked(tmp_path / "out", source(tmp_path), seed=1)
    note = "The institution ef has too few patients (1) and is part of the hospital cd."
    assert manifest["joined"] == {"ef": "cd"}
    assert manifest["notes"] == [note]
    hospitals = read_hospitals(tmp_path / "out")
    assert hospitals.facts[-1] == note
    assert note in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "hospitals.json").read_text()) == manifest


def test_small_institutions_go_one_by_one_to_the_smallest_hospital() -> None:
    def institution(count: int) -> dict[str, npt.NDArray[np.int64]]:
        return {f"{count}-{n}": np.arange(1) for n in range(count)}

    counts = {"a": 12, "b": 10, "c": 3, "d": 2}
    patients = {name: institution(count) for name, count in counts.items()}
    large, joined = join_small(patients, 10)
    assert joined == {"c": "b", "d": "a"}
    assert {name: len(each) for name, each in large.items()} == {"a": 14, "b": 13}


def test_another_patient_moves_nobody_into_or_out_of_the_test_set(tmp_path: Path) -> None:
    data = content()
    kept = data["patient"] != "AB-3"
    fewer = {name: array[kept] for name, array in data.items()}
    write_masked(tmp_path / "all", source(tmp_path), seed=0)
    write_masked(tmp_path / "fewer", source(tmp_path, **fewer), seed=0)
    everyone, rest = (
        {frozenset(each) for each in patients_of(tmp_path / name, "test").values()}
        for name in ("all", "fewer")
    )
    assert everyone - {frozenset(pairs(data)["AB-3"])} == rest


def test_site_files_and_facts(tmp_path: Path) -> None:
    manifest = write_masked(tmp_path / "out", source(tmp_path), seed=0)
    for site in manifest["sites"]:
        facts = manifest["per_site"][site]
        data = tomllib.loads((tmp_path / "out" / site / "site.toml").read_text())["data"]["tumours"]
        assert data["masks"] == "masks"
        assert data["declared_patients"] == int(0.8 * facts["patients"])
        assert facts["labels"]["tumour"] <= facts["patients"]
    path = tmp_path / "tumours.npz"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["source"] == {"file": "tumours.npz", "sha256": sha256}
    assert manifest["kind"] == "masked-npz"
    patients = [*(facts["patients"] for facts in manifest["per_site"].values())]
    assert sum(patients) + manifest["test"]["patients"] == sum(INSTITUTIONS.values())


def test_masks_may_be_packed_and_arrays_may_have_other_names(tmp_path: Path) -> None:
    data = content()
    np.savez(
        tmp_path / "other.npz",
        flair=data["images"],
        bits=np.packbits(data["masks"].reshape(len(data["masks"]), -1), axis=1),
        who=np.unique(data["patient"], return_inverse=True)[1],
        where=data["site"],
    )
    found = read_masked(
        tmp_path / "other.npz",
        classes=["tumour"],
        arrays=Arrays("flair", "bits", "who", "where"),
        modality="MR",
    )
    assert np.array_equal(found.masks, data["masks"])
    with pytest.raises(DataError, match="masks of bits know one class"):
        read_masked(
            tmp_path / "other.npz",
            classes=["tumour", "edema"],
            arrays=Arrays("flair", "bits", "who", "where"),
        )
    with pytest.raises(DataError, match="name the arrays of this file: --images, --masks"):
        read_masked(tmp_path / "other.npz", classes=["tumour"])
    assert {name: len(each) for name, each in found.patients.items()} == {
        "ab": 14,
        "cd": 11,
        "ef": 1,
        "gh": 12,
    }


def test_the_same_seed_gives_the_same_bytes_and_another_another_test_set(tmp_path: Path) -> None:
    read = source(tmp_path)
    for name, seed in (("first", 4), ("second", 4), ("other", 5)):
        write_masked(tmp_path / name, read, seed=seed)
    first, second, other = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")}
        for n in ("first", "second", "other")
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"masks": None}, {}, "without masks; it has images"),
        ({"images": np.zeros((114, *SHAPE))}, {}, "images"),
        ({"images": np.zeros((114, *SHAPE, 3), np.uint8)}, {}, "images"),
        ({"masks": np.zeros((114, 3, 3), np.uint8)}, {}, "packed bits"),
        ({"masks": np.zeros((114, *SHAPE), bool)}, {}, "masks"),
        ({"patient": np.zeros(3, int)}, {}, "patient"),
        ({"site": np.zeros(114)}, {}, "site"),
        ({"site": np.full(114, "test")}, {}, "cannot be used"),
        ({"site": np.arange(114) % 2}, {}, "more than one institution"),
        ({"site": np.array(["A b", "a-B"])[np.arange(114) % 2]}, {}, "cannot be used"),
        ({"masks": np.full((114, *SHAPE), 2, np.uint8)}, {}, "2 different names"),
        ({}, {"classes": ["a", "a"]}, "different names"),
        ({}, {"classes": [""]}, "different names"),
        ({}, {"dataset": "Not A Name"}, "--dataset"),
        ({}, {"modality": "x-ray"}, "--modality"),
    ],
)
def test_a_file_or_a_name_that_cannot_be_used_is_an_error_that_says_why(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_masked(save(tmp_path, **changes), **{"classes": ["tumour"], **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 15}, "at most 14"),
        ({"test_share": 0.0}, "--test-share"),
        ({"test_share": 1.0}, "--test-share"),
    ],
)
def test_nothing_is_written_where_no_hospitals_can_be_made(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_masked(tmp_path / "out", source(tmp_path), seed=0, **options)
    assert not (tmp_path / "out").exists()


def test_glioma_of_five_institutions_are_four_hospitals(shared_data: Path, tmp_path: Path) -> None:
    """110 patients (Buda et al. 2019); one institution has one patient. Every tenth image here."""
    with np.load(shared_data / "lgg_mri" / "lgg_flair_128.npz") as file:
        tenth = {name: file[name][::10] for name in file.files}
    np.savez(tmp_path / "lgg.npz", **tenth)
    arrays = Arrays("flair", "mask_bits", "patient", "institution")
    read = read_masked(tmp_path / "lgg.npz", classes=["tumour"], arrays=arrays, modality="MR")
    manifest = write_masked(tmp_path / "out", read, seed=0)
    assert manifest["sites"] == ["cs", "du", "fg", "ht"]
    assert manifest["joined"] == {"ez": "fg"}
    patients = [facts["patients"] for facts in manifest["per_site"].values()]
    assert sum(patients) + manifest["test"]["patients"] == 110
