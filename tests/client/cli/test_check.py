"""``consilium-site check`` as an administrator runs it: a process, its output, its exit code."""

from __future__ import annotations

import json
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import RLELossless

from common.visible import UNSEEN
from tests.client.daemon.process import commands

WriteDicom = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Two patients, and a note whose name is a patient's."""
    write_dicom(tmp_path / "images" / "a", PatientID="P1")
    write_dicom(tmp_path / "images" / "b", PatientID="P2")
    (tmp_path / "images" / "Doe_Jane.txt").write_text("note")
    (tmp_path / "labels.csv").write_text("PatientID;label\nP1;ill\nP2;well\n")
    return tmp_path


def check(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    places: list[str | Path] = ["--images", folder / "images", "--labels", folder / "labels.csv"]
    return commands()("check", *places, *more)


def test_the_report_goes_to_standard_output(folder: Path) -> None:
    done = check(folder)

    assert done.returncode == 0
    assert "2 files with 2 images" in done.stdout
    assert "1 ill, 1 well" in done.stdout
    assert "Doe_Jane" not in done.stdout + done.stderr


def test_json_is_one_object_and_nothing_else(folder: Path) -> None:
    done = check(folder, "--json", "--list")

    report = json.loads(done.stdout)
    assert (done.returncode, report["used"], report["rejected"]) == (0, 2, 1)
    assert report["rejected_files"][0]["path"] == "Doe_Jane.txt"


def test_what_cannot_be_decoded_is_counted_and_the_check_ends_well(
    folder: Path, write_dicom: WriteDicom
) -> None:
    """A file that panics a decoder, one that says nothing of its pixels, and a stray delimiter."""
    (folder / "labels.csv").write_text("PatientID;label\nP1;ill\nP2;well\nP3;ill\nP4;ill\n")
    odd = write_dicom(folder / "images" / "odd", np.ones((8, 8), "<u2"), syntax=RLELossless)
    # Each row of the upper halves is shorter than it should be, and each of the lower ones longer.
    rows = odd.read_bytes().replace(b"\xf9\x00" * 8, b"\x00\x00" * 8)
    odd.write_bytes(rows.replace(b"\xf9\x01" * 8, b"\x81\x01" * 8))
    bare = write_dicom(folder / "images" / "bare", PatientID="P4", PixelData=b"")
    bare.write_bytes(bare.read_bytes().replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008\\1.2.1", 1))
    stray = write_dicom(folder / "images" / "stray", PatientID="P3")
    stray.write_bytes(stray.read_bytes() + bytes.fromhex("feffdde000000000"))

    done = check(folder, "--list")

    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "3 files with 3 images" in done.stdout
    assert "odd  undecodable: PanicException" in done.stdout
    assert "bare  no-transfer-syntax" in done.stdout
    assert "DICOM Part 10 files" in " ".join(done.stdout.split())


def test_listing_names_the_files(folder: Path) -> None:
    assert "Doe_Jane.txt  not-dicom" in check(folder, "--list").stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--classes", "ill,healthy"], "line 3"),
        (["--label-column", "diagnosis"], 'no column "diagnosis"'),
        (["--key", "SOPInstanceUID", "--key-column", "PatientID"], "--key-column"),
        (["--modality", "MR"], "2 wrong-modality"),
    ],
)
def test_a_mistake_is_explained_and_exits_with_two(
    folder: Path, more: list[str], says: str
) -> None:
    done = check(folder, *more)

    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_labels_and_a_folder_without_dicom_exit_with_two(folder: Path) -> None:
    for name in "ab":
        (folder / "images" / name).unlink()
    without_dicom = check(folder)
    (folder / "labels.csv").unlink()
    without_labels = check(folder)

    assert without_dicom.returncode == without_labels.returncode == 2
    assert "has no DICOM files" in without_dicom.stderr
    assert "the label file does not exist" in without_labels.stderr


def test_folders_above_the_images_are_found_and_said(folder: Path) -> None:
    (folder / "labels.csv").write_text("File name;Label\nC:\\out\\a;ill\nC:\\out\\b;well\n")

    found = check(folder, "--json")
    other = check(folder, "--file-prefix", "D:\\")

    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["label_notes"] == [
        'the column "label" is called "Label"',
        '2 rows name files below "C:/out/", which was left out',
    ]
    assert other.returncode == 2
    assert "file_prefix" in other.stderr


def test_zeros_that_a_spreadsheet_removed_are_an_error_without_the_number(
    folder: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(folder / "images" / "c", PatientID="0070345")
    with (folder / "labels.csv").open("a") as file:
        file.write("70345;ill\n")

    done = check(folder)

    assert done.returncode == 2
    assert "00#####" in done.stderr
    assert "line 4" in done.stderr
    assert "70345" not in done.stdout + done.stderr


FOREIGN = "evil\x1b]0;x\x07\x1b[2K\x9b\u202e\nerror: all is well[bold]"


def unharmed(done: subprocess.CompletedProcess[str]) -> str:
    """What a command wrote, in which nothing steers a terminal."""
    written = done.stdout + done.stderr
    unseen = {each for each in written if unicodedata.category(each) in UNSEEN}
    assert unseen <= {"\n"}, ascii(unseen)
    return written


@pytest.mark.parametrize("more", [["--list"], ["--list", "--json"]])
def test_names_of_files_and_values_in_them_steer_no_terminal(
    folder: Path, write_dicom: WriteDicom, more: list[str]
) -> None:
    (folder / "images" / FOREIGN).write_text("note")
    write_dicom(folder / "images" / "c", PatientID="P3", Modality="CR\x1b[31m")
    done = check(folder, *more)
    assert done.returncode == 0
    written = unharmed(done)
    assert "[bold]" in written
    assert "error: all is well" not in {line[:18] for line in written.splitlines()}


def test_a_path_in_an_error_steers_no_terminal(folder: Path) -> None:
    done = check(folder, "--labels", str(folder / FOREIGN))
    assert done.returncode == 2
    written = unharmed(done)
    assert r"\x1b]0;x\x1b[2K\x9b\u202e" in written  # a bell Rich leaves out
    assert [line for line in written.splitlines() if line.startswith("error:")] == [
        "error: the label file does not exist"
    ]
