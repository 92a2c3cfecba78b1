from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from client.archive import scan, summary, walk
from client.dicom import Reason
from common.errors import DataError

WriteDicom = Callable[..., Path]


def test_every_file_is_found_or_rejected_whatever_its_name_or_depth(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "IM000001")
    write_dicom(tmp_path / "a" / "b" / "c" / "x.dcm")
    write_dicom(tmp_path / "a" / "y.DCM.bak")
    write_dicom(tmp_path / "report.dcm", PixelData=None)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / ".hidden").write_text("")

    result = scan(tmp_path, decode=False)

    assert {each.path for each in result.found} == {"IM000001", "a/b/c/x.dcm", "a/y.DCM.bak"}
    assert {(each.path, each.reason) for each in result.rejected} == {
        ("report.dcm", Reason.NO_PIXELS),
        ("DICOMDIR", Reason.UNDECODABLE),
        ("notes.txt", Reason.NOT_DICOM),
        (".hidden", Reason.NOT_DICOM),
    }


def test_damaged_pixels_are_found_only_by_decoding(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "a", np.zeros((32, 32), np.uint16), syntax=JPEGLSLossless)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xff\xd8\xff", b"\0\0\0"))
    write_dicom(tmp_path / "b")

    assert len(scan(tmp_path, decode=False).found) == 2
    (rejected,) = scan(tmp_path, decode=True).rejected
    assert (rejected.path, rejected.reason) == ("a", Reason.UNDECODABLE)


def test_several_processes_find_what_one_finds(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        write_dicom(tmp_path / f"{number}")
    (tmp_path / "note").write_text("note")
    monkeypatch.setattr("client.parallel.INLINE", 2)

    assert scan(tmp_path, decode=True, workers=2) == scan(tmp_path, decode=True, workers=1)


def test_a_circle_of_links_ends_and_each_file_is_seen_once(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "a" / "x")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "z").symlink_to(tmp_path / "a", target_is_directory=True)

    assert list(walk(tmp_path)) == ["a/x"]


def test_what_cannot_be_opened_is_listed_and_does_not_hang(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "good")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe")

    rejected = {each.path: each.reason for each in scan(tmp_path, decode=False).rejected}

    assert rejected == dict.fromkeys(("broken", "self", "pipe"), Reason.UNREADABLE)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_listed(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "good")
    write_dicom(tmp_path / "secret").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)

    rejected = {each.path: each.reason for each in scan(tmp_path, decode=False).rejected}

    assert rejected == dict.fromkeys(("secret", "closed"), Reason.UNREADABLE)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "gone", decode=False)


def test_a_folder_without_dicom_is_an_error_that_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("note")
    (tmp_path / "b.txt").write_text("note")

    with pytest.raises(DataError, match="2 not-dicom"):
        scan(tmp_path, decode=False)


def test_a_verdict_shows_no_path(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "Doe_Jane.dcm", PatientID="Doe^Jane")
    write_dicom(tmp_path / "Doe_John.dcm", PixelData=None)

    result = scan(tmp_path, decode=False)

    assert "Doe" not in repr(result)
    assert summary(result.rejected) == "1 no-pixels"
