from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import dcmread

from client.data.cohort import Split, load_cohort
from client.data.dicom import Rules
from client.data.labels import LabelFile
from client.data.pseudonyms import Pseudonyms
from client.data.report import check
from client.sitefile import load_site_file
from common.errors import DataError
from simulations.archives.manifest import read_hospitals
from simulations.hospitals.npz import read_source, write_divided


def arrays(train: int = 230, shape: tuple[int, ...] = (5, 5)) -> dict[str, np.ndarray]:
    """A MedMNIST file in small: every image is another one."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for part, count in (("train", train), ("val", 20), ("test", 12)):
        made[f"{part}_images"] = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        made[f"{part}_labels"] = (np.arange(count) % 3 > 0).astype(np.uint8)[:, None]
    return made


def save(
    folder: Path, name: str = "pneumoniamnist.npz", **changes: npt.NDArray[Any] | None
) -> Path:
    """The file, but for ``changes``; None leaves an array out."""
    content: dict[str, Any] = {**arrays(), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    np.savez(folder / name, **kept)
    return folder / name


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pixels(folder: Path) -> list[bytes]:
    """All images of an archive, in any order."""
    return sorted(dcmread(path).pixel_array.tobytes() for path in folder.rglob("*.dcm"))


def test_train_and_validation_are_divided_and_test_is_kept_apart(tmp_path: Path) -> None:
    manifest = write_divided(
        tmp_path / "out", read_source(save(tmp_path)), sites=2, alpha=1.0, seed=0
    )
    content = arrays()
    divided = np.concatenate([content["train_images"], content["val_images"]])
    found = [image for site in manifest["sites"] for image in pixels(tmp_path / "out" / site)]
    assert sorted(found) == sorted(each.tobytes() for each in divided)
    kept = sorted(each.tobytes() for each in content["test_images"])
    assert pixels(tmp_path / "out" / "test") == kept


def test_the_manifest_tells_where_everything_came_from(tmp_path: Path) -> None:
    source = save(tmp_path)
    manifest = write_divided(tmp_path / "out", read_source(source), sites=2, alpha=0.3, seed=1)
    hospitals = read_hospitals(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "hospitals.json").read_text()) == manifest
    assert hospitals.kind == "npz"
    assert hospitals.sites == ("east", "north")
    assert hospitals.redraws == manifest["redraws"] > 0
    assert manifest["alpha"] == 0.3
    assert manifest["classes"] == ["normal", "pneumonia"]
    assert manifest["patients"] == "each image is one patient: the file has no patient ids"
    assert manifest["source"] == {
        "file": "pneumoniamnist.npz",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    assert "each image counts as one patient" in (tmp_path / "out" / "README.md").read_text()
    assert sum(facts["patients"] for facts in manifest["per_site"].values()) == 250
    for site in manifest["sites"]:
        facts = manifest["per_site"][site]
        assert facts["patients"] >= 100
        assert min(facts["labels"].values()) >= 10
        data = load_site_file(hospitals.site_file(site)).data["pneumoniamnist"]
        assert data.declared_patients == facts["patients"] * 9 // 100 * 10
        assert data.split == (0.9, 0.1, 0.0)


def test_a_site_reads_exactly_value_over_255_under_the_right_labels(tmp_path: Path) -> None:
    source = read_source(save(tmp_path))
    write_divided(tmp_path / "out", source, sites=1, alpha=1.0, seed=0)
    hospitals = read_hospitals(tmp_path / "out")
    cohort = load_cohort(
        hospitals.test_images,
        hospitals.test_targets("label"),
        pseudonyms=Pseudonyms(b"k" * 32),
        classes=("normal", "pneumonia"),
        modalities=("DX",),
        image_size=(5, 5),
        channels=1,
        split=Split(0.0, 0.0, 1.0),
        cache=tmp_path / "cache",
    )
    expected = {
        (image / 255).astype(np.float16).tobytes(): label
        for image, label in zip(source.images["test"], source.labels["test"], strict=True)
    }
    found = {
        cohort.images[patient.images[0], 0].tobytes(): patient.label for patient in cohort.patients
    }
    assert found == expected


def test_colour_stays_colour(tmp_path: Path) -> None:
    content = arrays(shape=(5, 5, 3))
    source = read_source(save(tmp_path, "bloodmnist.npz", **content))
    write_divided(tmp_path / "out", source, sites=1, alpha=1.0, seed=0)
    images = sorted(each.tobytes() for each in content["test_images"])
    assert pixels(tmp_path / "out" / "test") == images
    one = dcmread(next((tmp_path / "out" / "test").rglob("*.dcm")))
    assert one.PhotometricInterpretation == "RGB"
    assert one.Modality == "SM"
    hospitals = read_hospitals(tmp_path / "out")
    labels = hospitals.test_targets("label")
    assert isinstance(labels, LabelFile)
    found = check(hospitals.test_images, labels, classes=("class0", "class1"), rules=Rules())
    assert found.images == 12


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(tmp_path: Path) -> None:
    source = read_source(save(tmp_path))
    for name, seed in (("first", 4), ("second", 4), ("other", 5)):
        write_divided(tmp_path / name, source, sites=2, alpha=1.0, seed=seed)
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    assert tree(tmp_path / "first") != tree(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "dataset", "modality", "classes"),
    [
        ("pneumoniamnist.npz", "pneumoniamnist", "DX", ("normal", "pneumonia")),
        ("pneumoniamnist_64.npz", "pneumoniamnist", "DX", ("normal", "pneumonia")),
        ("breastmnist.npz", "breastmnist", "US", ("malignant", "normal")),
        ("My Images.npz", "my-images", "OT", ("class0", "class1")),
    ],
)
def test_what_the_name_of_the_file_tells(
    tmp_path: Path, name: str, dataset: str, modality: str, classes: tuple[str, ...]
) -> None:
    source = read_source(save(tmp_path, name))
    assert source.dataset == dataset
    assert source.kind.modality == modality
    assert source.kind.classes == classes


def test_what_is_given_goes_before_what_the_name_tells(tmp_path: Path) -> None:
    source = read_source(save(tmp_path), dataset="lungs", classes=["a", "b"], modality="CR")
    assert (source.dataset, source.kind.modality) == ("lungs", "CR")
    assert source.kind.classes == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"val_labels": None}, {}, "without val_labels"),
        ({"train_images": np.zeros((230, 5, 5))}, {}, "train_images"),
        ({"train_images": np.zeros((230, 5, 5, 5), np.uint8)}, {}, "different shapes"),
        ({"train_images": np.zeros((230, 5), np.uint8)}, {}, "or volumes"),
        ({}, {"label": 0}, "no several labels"),
        ({}, {"slices": 4}, "no volumes"),
        ({"test_images": np.zeros((0, 5, 5), np.uint8)}, {}, "test_images"),
        ({"train_labels": np.zeros((230, 14), np.uint8)}, {}, "choose one of the 14 labels"),
        ({"train_labels": np.zeros((229, 1), np.uint8)}, {}, "for 230 images"),
        ({"train_labels": np.full((230, 1), -1)}, {}, "train_labels"),
        ({"train_labels": np.full((230, 1), 2)}, {}, "3 different names"),
        ({"train_labels": np.full((230, 1), 100)}, {}, "0 to 99"),
        ({"train_labels": np.full((230, 1), 10**9)}, {}, "0 to 99"),
        ({"train_labels": np.full((230, 1), 2**64 - 1, np.uint64)}, {}, "0 to 99"),
        ({}, {"classes": ["a", "b", "c"]}, "2 different names"),
        ({}, {"classes": ["a", "a"]}, "2 different names"),
        ({}, {"classes": [""]}, "2 different names"),
        ({}, {"dataset": "Not A Name"}, "--dataset"),
        ({}, {"modality": "x-ray"}, "--modality"),
    ],
)
def test_a_file_or_a_name_that_cannot_be_used_is_an_error_that_says_why(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_source(save(tmp_path, **changes), **options)


@pytest.mark.parametrize("slices", [1, 3, 7])
def test_a_volume_is_a_patient_with_slices_from_its_first_to_its_last(
    tmp_path: Path, slices: int
) -> None:
    content = arrays(shape=(7, 5, 5))
    source = read_source(save(tmp_path, "organmnist3d.npz", **content), slices=slices)
    taken = {1: [0], 3: [0, 3, 6], 7: list(range(7))}[slices]
    wanted = content["test_images"][:, taken].reshape(-1, 5, 5)
    np.testing.assert_array_equal(source.images["test"], wanted)
    assert source.patients is not None
    everyone = np.concatenate([source.patients[part] for part in ("train", "val", "test")])
    np.testing.assert_array_equal(everyone, np.repeat(np.arange(230 + 20 + 12), slices))
    np.testing.assert_array_equal(
        source.labels["test"], np.repeat(content["test_labels"][:, 0], slices)
    )
    manifest = write_divided(tmp_path / "out", source, sites=2, alpha=1.0, seed=0, arrays=True)
    assert manifest["test"]["patients"] == 12
    assert sum(each["patients"] for each in manifest["per_site"].values()) == 230 + 20
    found = read_hospitals(tmp_path / "out").part("test")
    assert found is not None


@pytest.mark.parametrize("colours", [1, 2, 4])
def test_colours_that_no_study_takes_are_no_slices(tmp_path: Path, colours: int) -> None:
    path = save(tmp_path, "own.npz", **arrays(shape=(28, 28, colours)))
    with pytest.raises(DataError, match=f"{colours} colours"):
        read_source(path)


def test_volumes_are_arrays_and_of_so_many_slices(tmp_path: Path) -> None:
    path = save(tmp_path, "organmnist3d.npz", **arrays(shape=(7, 5, 5)))
    with pytest.raises(DataError, match="add --arrays"):
        write_divided(tmp_path / "out", read_source(path), sites=2, alpha=1.0, seed=0)
    assert not (tmp_path / "out").exists()
    for slices in (0, 8):
        with pytest.raises(DataError, match="1 to 7, the slices of a volume"):
            read_source(path, slices=slices)


def test_one_of_several_labels_is_learned(tmp_path: Path) -> None:
    content = arrays()
    for part, count in (("train", 230), ("val", 20), ("test", 12)):
        content[f"{part}_labels"] = np.arange(3 * count).reshape(count, 3) % 5 % 2
    path = save(tmp_path, "chestmnist.npz", **content)
    source = read_source(path, label=2)
    np.testing.assert_array_equal(source.labels["test"], content["test_labels"][:, 2])
    assert source.kind.classes == ("absent", "present")
    named = read_source(path, label=0, classes=["clear", "effusion"])
    assert named.kind.classes == ("clear", "effusion")
    for label in (-1, 3):
        with pytest.raises(DataError, match="0 to 2"):
            read_source(path, label=label)


def test_a_missing_file_and_another_kind_of_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_source(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        read_source(tmp_path / "text.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        read_source(tmp_path / "single.npy")
    with pytest.raises(DataError, match="cannot be read"):
        read_source(tmp_path)


def test_objects_in_a_file_are_not_unpickled(tmp_path: Path) -> None:
    path = save(tmp_path, train_images=np.array([print], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        read_source(path)


def test_nothing_is_written_where_no_division_exists(tmp_path: Path) -> None:
    source = read_source(save(tmp_path))
    with pytest.raises(DataError, match="use at most 2 sites"):
        write_divided(tmp_path / "out", source, sites=3, alpha=1.0, seed=0)
    assert not (tmp_path / "out").exists()


def test_real_chest_radiographs_divide_into_four_hospitals(
    shared_data: Path, tmp_path: Path
) -> None:
    """BreastMNIST, the smaller of the two: 624 images of train and validation."""
    source = read_source(shared_data / "medmnist" / "breastmnist.npz")
    manifest = write_divided(tmp_path / "out", source, sites=4, alpha=0.5, seed=0)
    assert sum(facts["patients"] for facts in manifest["per_site"].values()) == 624
    assert manifest["test"]["labels"] == {"malignant": 42, "normal": 114}
    assert pixels(tmp_path / "out" / "test") == sorted(
        each.tobytes() for each in source.images["test"]
    )
