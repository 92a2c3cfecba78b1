"""A folder of DICOM files, read as a hospital keeps it.

Files of any name, with or without an ending, at any depth. Nothing is passed over in
silence: every file is found usable as far as its own content goes, or rejected with a
reason. Which of the usable ones a study takes is decided in :mod:`client.dataset`.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from client.dicom import Header, Reason, Unusable, read
from client.parallel import Progress, ordered_map, silent
from client.pixels import images
from common.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Found:
    """A file that holds an image.

    Attributes:
        path: relative to the folder, with ``/``. Sensitive: a name may hold a patient's.
        sha256: of the content, 64 hexadecimal digits. Sensitive: it identifies the file.
        header: what the file says about itself. Sensitive.
    """

    path: str = field(repr=False)
    sha256: str = field(repr=False)
    header: Header = field(repr=False)


@dataclass(frozen=True)
class Rejected:
    """A file that is not used, and why. ``path`` is sensitive, the rest is not."""

    path: str = field(repr=False)
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Scan:
    """What a folder holds; both parts sorted by path."""

    found: tuple[Found, ...]
    rejected: tuple[Rejected, ...]


def scan(folder: Path, *, decode: bool, workers: int = 1, progress: Progress = silent) -> Scan:
    """Read every file below ``folder``.

    Args:
        folder: where the images are.
        decode: also decode every image, to find those that cannot be.
        workers: processes to read with.
        progress: told of every file.

    Raises:
        DataError: there is no such folder, or no DICOM file in it.
    """
    paths = list(walk(folder))
    verdicts: list[Found | Rejected] = []
    with progress("checking files" if decode else "reading files", len(paths), unit="files") as job:
        look = partial(examine, folder, decode=decode)
        for verdict in ordered_map(look, paths, workers=workers, crashed=crashed):
            verdicts.append(verdict)
            job.advance()
    result = Scan(
        tuple(each for each in verdicts if isinstance(each, Found)),
        tuple(each for each in verdicts if isinstance(each, Rejected)),
    )
    _require_dicom(folder, result)
    return result


def examine(folder: Path, path: str, *, decode: bool) -> Found | Rejected:
    """One file: found, or rejected with a reason."""
    try:
        if not stat.S_ISREG((folder / path).stat().st_mode):
            raise Unusable(Reason.UNREADABLE, "not a regular file")
        reading = read(folder / path)
        header = reading.header
        if decode:
            shapes = [image.shape for image in images(reading.dataset)]
            header = replace(header, rows=shapes[0][0], columns=shapes[0][1], frames=len(shapes))
        return Found(path, reading.sha256, header)
    except OSError as error:
        detail = error.strerror or type(error).__name__
        return Rejected(path, Reason.UNREADABLE, detail)
    except Unusable as verdict:
        return Rejected(path, verdict.reason, verdict.detail)


def crashed(path: str) -> Rejected:
    """The verdict on a file whose decoder brought its process down."""
    return Rejected(path, Reason.UNDECODABLE, "its decoder crashed")


def walk(folder: Path) -> Iterator[str]:
    """Every entry below a folder that is not a folder, sorted, relative to it.

    Links to folders are followed, each folder once, so that a circle of links ends. A
    folder that may not be listed is given like a file, to be rejected like one.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder of images",
            where=folder,
            wanted="a folder with DICOM files, at any depth",
        )
    yield from _below(folder, PurePosixPath(), set())


def _below(folder: Path, place: PurePosixPath, seen: set[tuple[int, int]]) -> Iterator[str]:
    try:
        status = (folder / place).stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder / place) as entries:
            names = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError:
        yield str(place)
        return
    for name, is_folder in names:
        if is_folder:
            yield from _below(folder, place / name, seen)
        else:
            yield str(place / name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False


def summary(rejected: Iterable[Rejected]) -> str:
    """How many files are rejected for each reason: ``158 no-label, 7 not-dicom``."""
    counts = Counter(each.reason.value for each in rejected)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "no file"


def _require_dicom(folder: Path, result: Scan) -> None:
    foreign = (Reason.NOT_DICOM, Reason.UNREADABLE)
    if result.found or any(each.reason not in foreign for each in result.rejected):
        return
    raise DataError(
        "the folder holds no DICOM file",
        where=folder,
        found=summary(result.rejected),
        wanted="DICOM files (PS3.10), with or without an ending, at any depth",
        remedy="check that this is the right folder and that its files may be read",
    )
