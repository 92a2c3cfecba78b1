from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from client.data.archive import Found, Rejected, scan
from client.data.cache import Cached, Decoded, ImageShape, decode, fill
from client.data.cache_index import CacheRefused
from client.data.dicom import Reason
from client.data.parallel import CRASHED, Elsewhere
from client.data.pseudonyms import Pseudonyms
from common.errors import DataError
from common.process.progress import Tracker
from tests.client.data.pictures import nearly

WriteDicom = Callable[..., Path]

KEY = bytes(range(32))
SHAPE = ImageShape((4, 4), 1)

FILL = """
import sys
from pathlib import Path
from tests.client.data.test_cache import KEY, SHAPE, filled
filled(Path(sys.argv[1]), die_after=int(sys.argv[2]))
"""


class Counter:
    """Counts decoded files; ends the process in the middle, if it should."""

    def __init__(self, die_after: int = -1) -> None:
        self.decoded = 0
        self._die_after = die_after

    def advance(self, n: int = 1) -> None:
        self.decoded += n
        if self.decoded == self._die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def __call__(self, description: str, total: int, *, unit: str = "") -> Iterator[Tracker]:
        assert (description, unit) == ("decoding images", "files")
        yield self


def filled(folder: Path, *, die_after: int = -1, shape: ImageShape = SHAPE) -> tuple[Cached, int]:
    """The cache of ``folder/images`` in ``folder/cache``, and how many files were decoded."""
    counter = Counter(die_after)
    files = scan(folder / "images", decode=False).found
    cached = fill(
        folder / "cache",
        folder / "images",
        files,
        shape,
        pseudonyms=Pseudonyms(KEY),
        progress=counter,
    )
    return cached, counter.decoded


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Three images; the pixels of the n-th are 51 n, all but one."""
    for number in range(3):
        pixels = nearly(51 * number, 4, 4)
        write_dicom(tmp_path / "images" / f"{number}", pixels)
    return tmp_path


def values(cached: Cached) -> list[float]:
    return [round(float(each), 2) for each in cached.images.mean(axis=(1, 2, 3))]


def test_images_are_kept_in_the_order_of_the_files(folder: Path) -> None:
    cached, decoded = filled(folder)

    assert decoded == 3
    assert cached.rows == (range(1), range(1, 2), range(2, 3))
    assert cached.images.dtype == np.float16
    assert cached.images.shape == (3, 1, 4, 4)
    assert values(cached) == [0, 0.2, 0.4]
    assert isinstance(cached.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cached.images[0] = 1


def test_nothing_is_decoded_twice(folder: Path) -> None:
    filled(folder)

    cached, decoded = filled(folder)

    assert decoded == 0
    assert values(cached) == [0, 0.2, 0.4]


def test_only_a_changed_file_is_decoded_again(folder: Path, write_dicom: WriteDicom) -> None:
    filled(folder)
    write_dicom(folder / "images" / "1", nearly(255, 4, 4))

    cached, decoded = filled(folder)

    assert decoded == 1
    assert values(cached) == [0, 1, 0.4]


def test_a_new_file_takes_its_place_among_the_known(folder: Path, write_dicom: WriteDicom) -> None:
    filled(folder)
    write_dicom(folder / "images" / "0a", nearly(255, 2, 4, 4))

    cached, decoded = filled(folder)

    assert decoded == 1
    assert cached.rows == (range(1), range(1, 3), range(3, 4), range(4, 5))
    assert values(cached) == [0, 1, 1, 0.2, 0.4]


def test_an_image_whose_file_is_gone_is_gone(folder: Path) -> None:
    filled(folder)
    (folder / "images" / "1").unlink()

    cached, decoded = filled(folder)

    assert decoded == 0
    assert values(cached) == [0, 0.4]
    (data,) = folder.glob("cache/*/*.f16")
    assert data.stat().st_size == 2 * 16 * 2


def test_renaming_a_file_decodes_nothing(folder: Path) -> None:
    filled(folder)
    (folder / "images" / "2").rename(folder / "images" / "another")

    assert filled(folder)[1] == 0


def test_another_size_is_another_cache(folder: Path) -> None:
    filled(folder)

    assert filled(folder, shape=ImageShape((2, 2), 3))[0].images.shape == (3, 3, 2, 2)
    assert filled(folder)[1] == 0


def test_an_undecodable_file_keeps_its_reason_and_takes_no_row(
    folder: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(folder / "images" / "0a", PhotometricInterpretation="CMYK")

    for expected in (4, 0):
        cached, decoded = filled(folder)
        assert decoded == expected
        assert values(cached) == [0, 0.2, 0.4]
        verdict = cached.rows[1]
        assert isinstance(verdict, Rejected)
        assert verdict.reason is Reason.UNDECODABLE


@pytest.mark.parametrize("spare", [0, -1])
def test_a_cache_takes_no_more_than_it_may(folder: Path, spare: int) -> None:
    """Three images of 4 x 4 float16 numbers; what there was stays where they are too many."""
    known, _ = filled(folder)
    (folder / "images" / "0").unlink()
    files = scan(folder / "images", decode=False).found
    most = 2 * 4 * 4 * 2 + spare
    where = folder / "cache", folder / "images", files, SHAPE
    if spare < 0:
        with pytest.raises(DataError, match="too much disk space"):
            fill(*where, pseudonyms=Pseudonyms(KEY), most=most)
        assert values(known) == [0, 0.2, 0.4]
        assert len(list(folder.glob("cache/*/*.f16"))) == 1
    else:
        assert values(fill(*where, pseudonyms=Pseudonyms(KEY), most=most)) == [0.2, 0.4]


def test_what_would_take_too_much_is_not_decoded_to_find_out(folder: Path) -> None:
    counter = Counter()
    files = scan(folder / "images", decode=False).found
    with pytest.raises(DataError, match="too much disk space"):
        fill(
            folder / "cache",
            folder / "images",
            files,
            SHAPE,
            pseudonyms=Pseudonyms(KEY),
            progress=counter,
            most=3 * 4 * 4 * 2 - 1,
        )
    assert counter.decoded == 0


def test_a_header_that_says_less_than_there_is_fills_no_disk(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """What is written is counted too."""
    write_dicom(tmp_path / "images" / "0", nearly(0, 3, 4, 4))
    (file,) = scan(tmp_path / "images", decode=False).found
    assert file.header.frames == 3
    few = replace(file, header=replace(file.header, frames=1))
    where = tmp_path / "cache", tmp_path / "images", [few], SHAPE
    with pytest.raises(DataError, match="too much disk space"):
        fill(*where, pseudonyms=Pseudonyms(KEY), most=2 * 4 * 4 * 2)
    assert not list(tmp_path.glob("cache/*/*.f16"))


def test_a_damaged_cache_is_filled_anew(folder: Path) -> None:
    filled(folder)
    (data,) = folder.glob("cache/*/*.f16")
    data.write_bytes(data.read_bytes()[:-1])
    assert filled(folder)[1] == 3

    (index,) = folder.glob("cache/*/index.json")
    index.write_text("[]")
    cached, decoded = filled(folder)
    assert decoded == 3
    assert values(cached) == [0, 0.2, 0.4]
    assert len(list(folder.glob("cache/*/*.f16"))) == 1


def run(root: Path, folder: Path, die_after: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FILL, str(folder), str(die_after)]
    return subprocess.Popen(command, cwd=root)


def test_a_kill_while_filling_leaves_the_old_cache(
    root: Path, folder: Path, write_dicom: WriteDicom
) -> None:
    filled(folder)
    removed = (folder / "images" / "0").read_bytes()
    (folder / "images" / "0").unlink()
    for number in range(3, 6):
        write_dicom(folder / "images" / f"{number}", nearly(51 * number, 4, 4))

    assert run(root, folder, die_after=2).wait() == -signal.SIGKILL

    assert len(list(folder.glob("cache/*/*.f16"))) == 2
    (folder / "images" / "0").write_bytes(removed)
    cached, decoded = filled(folder)
    assert decoded == 3
    assert values(cached) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert len(list(folder.glob("cache/*/*.f16"))) == 1


def test_two_processes_at_once_give_one_whole_cache(root: Path, folder: Path) -> None:
    processes = [run(root, folder, die_after=-1) for _ in range(2)]

    assert [process.wait() for process in processes] == [0, 0]
    assert filled(folder)[1] == 0


def test_a_reader_keeps_its_images_while_the_cache_is_replaced(folder: Path) -> None:
    before, _ = filled(folder)
    (folder / "images" / "0").unlink()
    filled(folder)

    assert values(before) == [0, 0.2, 0.4]


def test_names_and_index_are_keyed_and_for_the_owner_alone(folder: Path) -> None:
    files = scan(folder / "images", decode=False).found
    filled(folder)

    for path in folder.rglob("cache/*/*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077
    (index,) = folder.glob("cache/*/index.json")
    assert not any(each.sha256 in index.read_text() for each in files)
    assert Pseudonyms(KEY).of_file(files[0].sha256, SHAPE.recipe) in index.read_text()


def test_a_file_that_changes_between_scan_and_decoding_has_no_rows_and_is_tried_again(
    folder: Path, write_dicom: WriteDicom
) -> None:
    files = scan(folder / "images", decode=False).found
    kept = (folder / "images" / "1").read_bytes()
    write_dicom(folder / "images" / "1")
    (folder / "images" / "2").unlink()
    os.mkfifo(folder / "images" / "2")

    cached = fill(folder / "cache", folder / "images", files, SHAPE, pseudonyms=Pseudonyms(KEY))

    assert values(cached) == [0]
    assert cached.rows[0] == range(1)
    assert [each.reason for each in cached.rows[1:] if isinstance(each, Rejected)] == [
        Reason.UNREADABLE,
        Reason.UNREADABLE,
    ]
    (folder / "images" / "1").write_bytes(kept)
    cached = fill(folder / "cache", folder / "images", files, SHAPE, pseudonyms=Pseudonyms(KEY))
    assert values(cached) == [0, 0.2]


@pytest.mark.parametrize("gone", ["0", "copy"])
def test_what_becomes_of_a_file_is_nothing_to_another_with_the_same_content(
    folder: Path, gone: str
) -> None:
    (folder / "images" / "copy").write_bytes((folder / "images" / "0").read_bytes())
    files = scan(folder / "images", decode=False).found
    (folder / "images" / gone).write_bytes(b"")

    cached = fill(folder / "cache", folder / "images", files, SHAPE, pseudonyms=Pseudonyms(KEY))

    verdicts = dict(zip((each.path for each in files), cached.rows, strict=True))
    assert isinstance(verdicts.pop(gone), Rejected)
    assert sorted(values(cached)) == [0, 0.2, 0.4]
    assert all(isinstance(each, range) for each in verdicts.values())


def test_more_frames_than_a_study_of_such_images_may_hold_are_too_large(
    folder: Path, write_dicom: WriteDicom
) -> None:
    large = ImageShape((4096, 4096), 1)
    write_dicom(folder / "images" / "3", np.zeros((large.most_frames + 1, 1, 1), np.uint8))
    (found,) = (each for each in scan(folder / "images", decode=False).found if each.path == "3")

    made = decode(folder / "images", large, found, here=True)

    assert large.most_frames == 2
    assert made == (Reason.TOO_LARGE, "more than 2 frames")


def test_a_file_that_nobody_foresaw_costs_itself_alone(folder: Path) -> None:
    """Its number of stored bits is a number of eight bytes that has two."""
    content = (folder / "images" / "1").read_bytes()
    at = content.index(b"\x28\x00\x01\x01US") + 4
    (folder / "images" / "1").write_bytes(content[:at] + b"FD" + content[at + 2 :])

    cached, _ = filled(folder)

    assert values(cached) == [0, 0.4]
    assert isinstance(cached.rows[1], Rejected)


class Panic(BaseException):
    """What decoders in Rust raise; it is no Exception."""


def test_whatever_is_raised_over_a_file_is_its_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a lack of memory is the process's: the site's own has the file opened in another."""
    images, shape = folder / "images", ImageShape((4, 4), 1)
    found = scan(images, decode=False).found[0]

    monkeypatch.setattr("client.data.cache.read", Mock(side_effect=Panic))
    assert decode(images, shape, found) == (Reason.UNDECODABLE, "Panic while decoding it")

    monkeypatch.setattr("client.data.cache.read", Mock(side_effect=MemoryError))
    with pytest.raises(Elsewhere):
        decode(images, shape, found, here=True)
    with pytest.raises(MemoryError):
        decode(images, shape, found)


def test_a_file_that_ends_the_process_that_decodes_it_costs_itself_alone(
    folder: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process than this one, also where it is alone; and it is tried again."""
    pixels = nearly(255, 16, 16)
    write_dicom(folder / "images" / "1", pixels, syntax=JPEGLSLossless)
    with monkeypatch.context() as patched:
        patched.setattr("client.data.cache.decode", decode_or_crash)
        cached, _ = filled(folder)
    assert values(cached) == [0, 0.4]
    assert cached.rows[1] == Rejected("1", Reason.UNDECODABLE, CRASHED)

    cached, decoded = filled(folder)
    assert decoded == 1
    assert values(cached) == [0, 1, 0.4]


def decode_or_crash(
    folder: Path, shape: ImageShape, file: Found, *, here: bool = False
) -> Decoded | CacheRefused:
    """A decoder that has a fault."""
    if not here:
        os.abort()
    return decode(folder, shape, file, here=here)


def test_a_cache_that_cannot_be_written_is_an_error(folder: Path) -> None:
    (folder / "cache").write_text("a file stands there")

    with pytest.raises(DataError, match="cannot be written"):
        filled(folder)


def test_no_file_gives_no_image(tmp_path: Path) -> None:
    nothing: list[Found] = []

    cached = fill(tmp_path / "cache", tmp_path, nothing, SHAPE, pseudonyms=Pseudonyms(KEY))

    assert cached.images.shape == (0, 1, 4, 4)
