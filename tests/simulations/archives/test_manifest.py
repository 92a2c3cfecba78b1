from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.data.labels import LabelFile
from client.data.masks.sources import MaskFolder
from common.errors import DataError
from simulations.archives.manifest import read_hospitals

MANIFEST = {"kind": "npz", "seed": 3, "sites": ["south", "north"], "redraws": 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hospitals.json").write_text(json.dumps(MANIFEST))
    for site in ("north", "south"):
        (tmp_path / site).mkdir()
        (tmp_path / site / "site.toml").touch()
    return tmp_path


def test_sites_are_sorted_and_what_must_be_said_is_said(folder: Path) -> None:
    hospitals = read_hospitals(folder)

    assert hospitals.sites == ("north", "south")
    assert (hospitals.seed, hospitals.redraws) == (3, 7)
    assert "each image counts as one patient" in hospitals.facts[0]


def test_another_manifest_has_another_hash(folder: Path) -> None:
    before = read_hospitals(folder).sha256
    (folder / "hospitals.json").write_text(json.dumps(MANIFEST | {"seed": 4}))

    assert read_hospitals(folder).sha256 != before


def test_the_test_sets_label_column_is_found(folder: Path) -> None:
    (folder / "test").mkdir()
    (folder / "test" / "labels.csv").write_text("SOPInstanceUID,label\n1.2,normal\n")
    labels = read_hospitals(folder).test_targets("label")

    assert isinstance(labels, LabelFile)
    assert (labels.key, labels.label_column) == ("SOPInstanceUID", "label")


def test_the_test_sets_masks_are_found_and_asked_for(folder: Path) -> None:
    with pytest.raises(DataError, match="have no masks"):
        read_hospitals(folder).test_targets("mask")
    (folder / "test" / "masks").mkdir(parents=True)
    assert read_hospitals(folder).test_targets("mask") == MaskFolder(folder / "test" / "masks")


def test_what_the_manifest_notes_is_said_beside_the_kinds_own_facts(folder: Path) -> None:
    assert len(read_hospitals(folder).facts) == 1
    (folder / "hospitals.json").write_text(json.dumps(MANIFEST | {"notes": ["EZ is part of FG."]}))
    assert read_hospitals(folder).facts[1:] == ("EZ is part of FG.",)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "npz"}', '{"kind": 1, "seed": "a"}'])
def test_a_manifest_that_cannot_be_read_is_named(text: str, folder: Path) -> None:
    (folder / "hospitals.json").write_text(text)

    with pytest.raises(DataError, match="manifest of the hospitals cannot be read") as caught:
        read_hospitals(folder)
    assert str(folder / "hospitals.json") in str(caught.value)


def test_a_hospital_without_a_site_file_is_named(folder: Path) -> None:
    (folder / "south" / "site.toml").unlink()

    with pytest.raises(DataError, match="no site file") as caught:
        read_hospitals(folder)
    assert "south" in str(caught.value)


def test_a_folder_without_a_manifest_says_how_to_make_hospitals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="consilium-sim hospitals synth"):
        read_hospitals(tmp_path)
