from __future__ import annotations

import errno
import inspect
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from client.data.archive import (
    Found,
    Rejected,
    Scan,
    examine,
    require_dicom,
    require_folder,
    scan,
    summary,
    walk,
)
from client.data.dicom import Reason
from client.data.parallel import CRASHED, Elsewhere
from common.errors import DataError
from common.process.progress import Tracker, silent

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
    write_dicom(tmp_path / "packed", np.zeros((32, 32), np.uint16), syntax=JPEGLSLossless)
    monkeypatch.setattr("client.data.parallel.INLINE", 2)

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

    assert rejected == {"secret": Reason.UNREADABLE, "closed/": Reason.UNLISTED}


def test_a_folder_below_that_cannot_be_listed_is_named(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never only fewer images: their patients would leave a study unnoticed."""
    write_dicom(tmp_path / "open" / "a")
    write_dicom(tmp_path / "open" / "closed" / "b")
    listed = os.scandir

    def refuse(folder: Path) -> Iterator[os.DirEntry[str]]:
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return listed(folder)

    monkeypatch.setattr("os.scandir", refuse)
    result = scan(tmp_path, decode=True)

    assert [each.path for each in result.found] == ["open/a"]
    assert [(each.path, each.reason) for each in result.rejected] == [
        ("open/closed/", Reason.UNLISTED)
    ]


def test_what_this_process_has_no_memory_for_is_opened_in_another(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(tmp_path / "a")
    monkeypatch.setattr("client.data.archive.read", Mock(side_effect=MemoryError))

    with pytest.raises(Elsewhere):
        examine(tmp_path, "a", decode=False, here=True)
    with pytest.raises(MemoryError):
        examine(tmp_path, "a", decode=False)


def test_a_link_changes_no_path_of_what_is_there_without_it(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "images" / "z" / "x")
    write_dicom(tmp_path / "elsewhere" / "y")
    (tmp_path / "images" / "a").symlink_to(tmp_path / "images" / "z", target_is_directory=True)
    (tmp_path / "images" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    assert sorted(walk(tmp_path / "images")) == ["b/y", "z/x"]


def test_folders_may_lie_deeper_in_one_another_than_python_recurses(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"d" * 300)
    deep.mkdir(parents=True)
    (deep / "x").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = list(walk(tmp_path))
    finally:
        sys.setrecursionlimit(limit)

    assert found == ["d/" * 300 + "x"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("gone", "file", "file/below"):
        with pytest.raises(DataError, match="does not exist"):
            scan(tmp_path / name, decode=False)


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server that is gone; stat may answer from memory, so the server itself is asked."""

    def stale(_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("os.statvfs", stale)
    with pytest.raises(DataError, match="cannot be listed") as error:
        scan(tmp_path, decode=False)
    assert error.value.details["found"] == "Stale file handle"


def test_a_folder_that_is_exchanged_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """As by an unmount: what is read then is nobody's file any more."""
    (tmp_path / "images").mkdir()
    root = require_folder(tmp_path / "images")
    assert require_folder(tmp_path / "images", root) == root
    (tmp_path / "images").rename(tmp_path / "old")
    (tmp_path / "images").mkdir()

    with pytest.raises(DataError, match="replaced"):
        require_folder(tmp_path / "images", root)


def test_nor_is_a_scan_of_such_a_folder_one(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()

    @contextmanager
    def exchange(description: str, total: int, *, unit: str = "") -> Iterator[Tracker]:
        (tmp_path / "images").rename(tmp_path / "old")
        (tmp_path / "images").mkdir()
        with silent(description, total, unit=unit) as job:
            yield job

    with pytest.raises(DataError, match="replaced"):
        scan(tmp_path / "images", decode=False, progress=exchange)


def test_a_mount_point_of_the_systems_table_that_is_empty_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is mounted, an archive would look as if its patients had gone."""
    images = tmp_path / "a b" / "images"
    images.mkdir(parents=True)
    table = tmp_path / "fstab"
    monkeypatch.setattr("client.data.archive.TO_MOUNT", table)
    require_folder(images)
    place = str(tmp_path / "a b").replace(" ", "\\040")
    for line in ("", f"# server:/x {place} nfs", "none none swap", "/dev/a / ext4", "/dev/b /z c"):
        table.write_text(f"{line}\n")
        require_folder(images)
    table.write_text(f"server:/x {place} nfs defaults 0 0\n")
    with pytest.raises(DataError, match="not mounted"):
        require_folder(images)
    mounted = tmp_path / "mountinfo"
    monkeypatch.setattr("client.data.archive.MOUNTED", mounted)
    mounted.write_text(f"22 1 0:20 / / rw - ext4 /dev/a rw\n23 22 0:21 / {place} rw - nfs x rw\n")
    require_folder(images)


def test_a_folder_may_hold_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path, decode=False) == Scan((), ())


def test_a_folder_without_dicom_is_an_error_for_people_that_says_what_it_holds(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text("note")
    (tmp_path / "b.txt").write_text("note")

    with pytest.raises(DataError, match="2 not-dicom"):
        require_dicom(tmp_path, scan(tmp_path, decode=False))


def test_a_file_that_ends_the_process_that_opens_it_costs_itself_alone(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process than this one, also where it is alone."""
    write_dicom(tmp_path / "a", np.zeros((32, 32), np.uint16), syntax=JPEGLSLossless)
    write_dicom(tmp_path / "b")
    monkeypatch.setattr("client.data.archive.examine", examine_or_crash)

    result = scan(tmp_path, decode=True)

    assert [each.path for each in result.found] == ["b"]
    (rejected,) = result.rejected
    assert (rejected.path, rejected.detail) == ("a", CRASHED)


def examine_or_crash(
    folder: Path, path: str, *, decode: bool, here: bool = False
) -> Found | Rejected:
    """A decoder that has a fault."""
    if not here:
        os.abort()
    return examine(folder, path, decode=decode, here=here)


def huge(path: Path, good: bytes) -> None:
    path.write_bytes(good)
    os.truncate(path, 2**40)


def endless_number(path: Path, good: bytes) -> None:
    with_text(path, good, b"\x28\x00\x08\x00", b"1" * 5000)


def endless_name(path: Path, good: bytes) -> None:
    with_text(path, good, b"\x10\x00\x10\x00", b"Doe" * 5000)
    with_text(path, path.read_bytes(), b"\x10\x00\x20\x00", b"P" * 5000)


def with_text(path: Path, good: bytes, tag: bytes, text: bytes) -> None:
    """An element more, before the group of the pixels, or one in the place of another."""
    text += b" " * (len(text) % 2)
    element = tag + b"LO" + struct.pack("<H", len(text)) + text
    path.write_bytes(good.replace(b"\x28\x00\x02\x00", element + b"\x28\x00\x02\x00", 1))


def deep(path: Path, good: bytes) -> None:
    """Sequences of undefined length within one another, deeper than Python recurses."""
    sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(good.replace(b"\x08\x00\x60\x00", sequence * 5000 + b"\x08\x00\x60\x00", 1))


def odd_value(path: Path, good: bytes) -> None:
    """A number of eight bytes that has twelve, where a word is expected."""
    at = good.index(b"\x28\x00\x04\x00CS") + 4
    path.write_bytes(good[:at] + b"FD" + good[at + 2 :])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (huge, Reason.TOO_LARGE),
        (endless_number, Reason.UNDECODABLE),
        (endless_name, Reason.UNDECODABLE),
        (deep, Reason.UNDECODABLE),
        (odd_value, Reason.UNDECODABLE),
    ],
)
def test_a_file_that_is_made_to_do_harm_has_a_verdict(
    tmp_path: Path, write_dicom: WriteDicom, make: Callable[[Path, bytes], None], reason: Reason
) -> None:
    good = write_dicom(tmp_path / "good").read_bytes()
    make(tmp_path / "bad", good)

    result = scan(tmp_path, decode=True)

    assert [each.path for each in result.found] == ["good"]
    assert [(each.path, each.reason) for each in result.rejected] == [("bad", reason)]


def test_a_verdict_shows_no_path(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "Doe_Jane.dcm", PatientID="Doe^Jane")
    write_dicom(tmp_path / "Doe_John.dcm", PixelData=None)

    result = scan(tmp_path, decode=False)

    assert "Doe" not in repr(result)
    assert summary(result.rejected) == "1 no-pixels"
