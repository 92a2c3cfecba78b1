"""Folders of classes and tables of pictures become hospitals; whole patients stay together."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.errors import DataError
from simulations.archives.manifest import read_hospitals
from simulations.cli.hospitals import app
from simulations.hospitals.pictures import Columns, Form, read_folder, read_table


def picture(path: Path, grey: int, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey // 2, 0)).save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for number in range(20):
        picture(tmp_path / "classes" / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    return tmp_path / "classes"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Thirty pictures of ten patients at two clinics."""
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "patient", "clinic"])
        for number in range(30):
            picture(tmp_path / "files" / f"{number}.png", number)
            patient = number % 10
            place = "North Side" if patient < 5 else "South"
            rows.writerow([f"files/{number}.png", f"class{patient % 2}", f"p{patient}", place])
    return path


def test_folders_are_classes(classes: Path) -> None:
    found = read_folder(classes, Form(16), seed=0, test_share=0.25)
    assert found.kind.classes == ("cat", "dog")
    assert found.images["train"].shape == (15, 16, 16)
    assert found.images["test"].shape == (5, 16, 16)
    colour = read_folder(classes, Form(16, colour=True), seed=0, test_share=0.25)
    assert colour.images["train"].shape == (15, 16, 16, 3)


def test_a_tables_patients_are_in_the_test_set_or_at_one_hospital(
    table: Path, tmp_path: Path
) -> None:
    found = read_table(
        table, Columns(patient="patient", site="clinic"), Form(8), seed=0, test_share=0.2
    )
    assert found.patients is not None
    tested, others = set(found.patients["test"].tolist()), set(found.patients["train"].tolist())
    assert len(tested) == 2
    assert not tested & others
    words = ["from-csv", str(table), "--patient-column", "patient", "--site-column", "clinic"]
    made = CliRunner().invoke(
        app, [*words, "--partition", "natural", "--size", "8", "--out", str(tmp_path / "out")]
    )
    assert made.exit_code == 0, made.output
    hospitals = read_hospitals(tmp_path / "out")
    assert hospitals.sites == ("north-side", "south")
    patients = np.load(tmp_path / "out" / "patients.npy")
    seen = [set(patients[slice(*hospitals.rows[name])].tolist()) for name in hospitals.rows]
    assert sum(map(len, seen)) == 10
    assert len(set.union(*seen)) == 10
    assert (tmp_path / "out" / "hospitals.png").exists()


def test_what_is_missing_or_no_picture_is_told(classes: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        read_folder(tmp_path / "nowhere", Form(), seed=0, test_share=0.2)
    with pytest.raises(DataError, match="columns are missing"):
        read_table(table, Columns(label="diagnosis"), Form(), seed=0, test_share=0.2)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv", Columns(), Form(), seed=0, test_share=0.2)
    (classes / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        read_folder(classes, Form(), seed=0, test_share=0.2)
    table.write_text("image,label\nfiles/none.png,a\n")
    with pytest.raises(DataError, match="no such picture"):
        read_table(table, Columns(), Form(), seed=0, test_share=0.2)
    table.write_text("image,label\n")
    with pytest.raises(DataError, match="no rows"):
        read_table(table, Columns(), Form(), seed=0, test_share=0.2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--partition", "fair"], "no such way"),
        (["--option", "alpha"], "cannot be read"),
        (["--partition", "quantity", "--option", "beta=2"], "beta"),
        (["--sites", "50"], "so many hospitals"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(
    classes: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    made = CliRunner().invoke(
        app, ["from-folder", str(classes), "--out", str(tmp_path / "o"), *words]
    )
    assert made.exit_code != 0
    assert said in str(made.exception)


def test_a_hospital_without_patients_is_left_out_by_name(classes: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "def divide(labels, images, sites, rng):\n"
        "    n = len(labels)\n"
        "    return [range(n // 2), [], range(n // 2, n)]\n"
    )
    made = CliRunner().invoke(
        app,
        [
            *("from-folder", str(classes), "--sites", "3", "--partition-file", str(mine)),
            *("--out", str(tmp_path / "out")),
        ],
    )
    assert made.exit_code == 0, made.output
    assert "EMPTY HOSPITALS, left out: east" in made.output
    assert read_hospitals(tmp_path / "out").sites == ("north", "south")
