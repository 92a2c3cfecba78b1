from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.data.masks.sources import MaskFolder
from client.sitefile import load_site_file
from common.errors import DataError
from simulations.hospitals.layout import Archive, declared_patients, fresh, write_site


class InterruptedByATestError(Exception):
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("patients", "train", "declared"),
    [(300, 0.8, 240), (299, 0.8, 230), (100, 0.9, 90), (9, 1.0, 9), (13, 0.8, 10), (10, 1.0, 10)],
)
def test_declared_patients_are_the_training_share_rounded_down_to_tens_if_there_are_ten(
    patients: int, train: float, declared: int
) -> None:
    assert declared_patients(patients, train) == declared


def test_a_site_file_that_the_site_accepts(tmp_path: Path) -> None:
    patients = {f"P{number}": {"b" if number % 2 else "a"} for number in range(30)}
    archive = Archive("PatientID", patients, 31, {"text": 1})
    facts = write_site(tmp_path, "north", archive, "chest-xray", (0.8, 0.2, 0.0))
    site = load_site_file(tmp_path / "site.toml")
    assert site.site.name == "north"
    assert site.data["chest-xray"].declared_patients == 20
    assert site.data["chest-xray"].split == (0.8, 0.2, 0.0)
    assert site.label_file("chest-xray", tmp_path).key == "PatientID"
    assert site.policy.min_sites == 2
    assert site.policy.allow_known_key
    assert facts["labels"] == {"a": 15, "b": 15}
    assert facts["patients"] == 30
    assert facts["images"] == 31


def test_a_site_file_with_masks_that_the_site_accepts(tmp_path: Path) -> None:
    archive = Archive(None, {"P1": {"liver"}, "P2": {"liver", "lesion"}}, 5, {})
    said = {"127": "liver", 'a "quoted" word': "lesion"}
    facts = write_site(
        tmp_path, "north", archive, "liver-mr", (0.5, 0.5, 0.0), declared=1, mask_classes=said
    )
    site = load_site_file(tmp_path / "site.toml")
    assert site.mask_folder("liver-mr", tmp_path) == MaskFolder(tmp_path / "masks", said)
    assert site.data["liver-mr"].labels is None
    assert site.data["liver-mr"].declared_patients == 1
    assert site.policy.tasks == ("segmentation",)
    assert facts["labels"] == {"lesion": 1, "liver": 2}


def test_the_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "hospitals"
    with fresh(out) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert names(out.parent) == ["hospitals"]


def test_nothing_is_left_of_a_folder_that_failed(tmp_path: Path) -> None:
    with pytest.raises(InterruptedByATestError), fresh(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise InterruptedByATestError
    assert names(tmp_path) == []


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with fresh(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]


def ours(out: Path) -> None:
    """Hospitals made before."""
    out.mkdir()
    (out / "hospitals.json").write_text(json.dumps({"kind": "npz", "sites": ["north"]}))
    for name in ("north", "test"):
        (out / name).mkdir()


def test_hospitals_made_before_are_replaced(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    with fresh(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path / "out") == ["a"]
    assert names(tmp_path) == ["out"]


def test_hospitals_made_before_survive_a_failure(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    with pytest.raises(InterruptedByATestError), fresh(tmp_path / "out"):
        raise InterruptedByATestError
    assert names(tmp_path / "out") == ["hospitals.json", "north", "test"]


@pytest.mark.parametrize("stranger", ["thesis.txt", "hospitals.json"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, stranger: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / stranger).write_text("{}")
    with pytest.raises(DataError, match=stranger), fresh(out):
        pytest.fail("entered")
    assert (out / stranger).read_text() == "{}"


def test_hospitals_with_something_of_the_users_among_them_are_left_alone(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"), fresh(tmp_path / "out"):
        pytest.fail("entered")


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="a file"), fresh(tmp_path / "out"):
        pytest.fail("entered")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"), fresh(tmp_path / "file" / "out"):
        pytest.fail("entered")
