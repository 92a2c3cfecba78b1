"""A folder of DICOM files, read as a hospital keeps it.

Files of any name, with or without an extension, at any depth. Every file is either usable, as
far as its own content shows, or rejected with a reason; none is skipped silently. Which of the
usable files a study takes is decided in :mod:`client.data.cohort`.

A file's verdict follows from that file alone. A problem with the folder as a whole is an error,
and is found without looking at any file (:func:`require_folder`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

from client.data.dicom import Header, Reason, Unusable, contained, read
from client.data.masks.sources import MaskFile
from client.data.parallel import CRASHED, Elsewhere, ordered_map
from client.data.pixels import images, is_plain
from common.errors import DataError
from common.process.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TO_MOUNT: Final = Path("/etc/fstab")
"""Which file systems this machine should mount, and where (fstab(5))."""
MOUNTED: Final = Path("/proc/self/mountinfo")
"""Which are mounted (proc_pid_mountinfo(5)); bind mounts of a folder are listed too."""

FOREIGN: Final = (Reason.NOT_DICOM, Reason.UNREADABLE, Reason.UNLISTED)
"""Reasons that leave open whether there is any DICOM file in a folder."""


@dataclass(frozen=True)
class Found:
    """A file that holds an image.

    Attributes:
        path: relative to the folder, with ``/``. Sensitive: a name may hold a patient's.
        sha256: of the content, 64 hexadecimal digits. Sensitive: it identifies the file.
        header: what the file says about itself. Sensitive.
        mask: the file with its mask, where masks were looked for. Sensitive.
    """

    path: str = field(repr=False)
    sha256: str = field(repr=False)
    header: Header = field(repr=False)
    mask: MaskFile | None = field(default=None, repr=False)

    @property
    def content(self) -> str:
        """What its images, and their masks, follow from."""
        return self.sha256 if self.mask is None else f"{self.sha256} {self.mask.sha256}"


@dataclass(frozen=True)
class Rejected:
    """A file that is not used, and why.

    ``path`` and ``mask``, the path of the mask that the reason is about, are sensitive; the rest
    is not.
    """

    path: str = field(repr=False)
    reason: Reason
    detail: str = ""
    mask: str = field(default="", repr=False)


@dataclass(frozen=True)
class Scan:
    """The content of a folder; both parts sorted by path."""

    found: tuple[Found, ...]
    rejected: tuple[Rejected, ...]


def scan(folder: Path, *, decode: bool, workers: int = 1, progress: Progress = silent) -> Scan:
    """Read every file below ``folder``; there may be none.

    Args:
        folder: where the images are.
        decode: also decode every image, to find those that cannot be.
        workers: processes to read with.
        progress: told of every file.

    Raises:
        DataError: the folder is missing, cannot be listed, or was replaced while it was read.
    """
    # Before and after: files that a dismounted disk took away must not look like erased patients.
    root = require_folder(folder)
    paths = sorted(walk(folder))
    verdicts: list[Found | Rejected] = []
    with progress("checking files" if decode else "reading files", len(paths), unit="files") as job:
        for verdict in ordered_map(
            partial(examine, folder, decode=decode),
            paths,
            here=partial(examine, folder, decode=decode, here=True),
            workers=workers,
            crashed=crashed,
        ):
            verdicts.append(verdict)
            job.advance()
    require_folder(folder, root)
    return Scan(
        tuple(each for each in verdicts if isinstance(each, Found)),
        tuple(each for each in verdicts if isinstance(each, Rejected)),
    )


def require_folder(folder: Path, root: Root | None = None, *, kind: str = "image") -> Root:
    """Require that a folder exists and can be listed, whatever files it holds.

    This separates a failure of the site (a disk or a file server that is away) from a problem
    with one patient's files. Nothing here depends on patients: an empty folder passes.

    Args:
        folder: of images, or of masks.
        root: which folder it was before; it must still be the same.
        kind: what an error calls it.

    Returns:
        Which folder it is: device and inode.

    Raises:
        DataError: it is missing, cannot be listed, was replaced by another, or its file system
            is not mounted.
    """
    try:
        # statvfs asks the file server; stat may answer from the client's cache after it is gone.
        os.statvfs(folder)
        with os.scandir(folder) as entries:
            next(entries, None)
        status = folder.stat()
        _require_mounted(folder, kind)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"the {kind} folder does not exist",
            where=folder,
            wanted="a folder with DICOM files, at any depth"
            if kind == "image"
            else "a folder with masks (DICOM SEG, NIfTI or PNG), at any depth",
            remedy="check the path, and that its disk or file server is mounted",
        ) from error
    except OSError as error:
        raise _unlisted(folder, error, kind) from error
    found = Root(status.st_dev, status.st_ino)
    if root is not None and found != root:
        raise DataError(
            f"the {kind} folder was replaced by another one while it was being read",
            where=folder,
            remedy="check that its disk or file server is mounted; the folder is read again later",
        )
    return found


def _unlisted(folder: Path, error: OSError, kind: str = "image") -> DataError:
    return DataError(
        f"the {kind} folder cannot be listed",
        where=folder,
        found=error.strerror,
        remedy="check that its disk or file server is mounted, and that this user may read it",
    )


class Root(NamedTuple):
    """Which folder a path leads to."""

    device: int
    inode: int


def _require_mounted(folder: Path, kind: str) -> None:
    """Require that every fstab mount at, above or below the folder is mounted.

    Otherwise the empty mount point of a missing disk would look like an archive from which all
    patients have left. Without the system's tables this cannot be checked.
    """
    wanted, mounted = _places(TO_MOUNT, 1), _places(MOUNTED, 4)
    here = folder.resolve()
    above = wanted & {here, *here.parents} - {Path(here.anchor)}
    below = {place for place in wanted if here in place.parents}
    for place in sorted(above | below):
        if mounted and place not in mounted:
            raise DataError(
                f"the file system of the {kind} folder is not mounted",
                where=folder,
                wanted=f"a file system at {place}, as in {TO_MOUNT}",
                remedy=f"mount it: mount {place}",
            )


def _places(table: Path, cell: int) -> set[Path]:
    """The paths in one column of a system table; none if the table does not exist."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    # fstab has comments, mountinfo has none; both separate their cells by blanks.
    cells = (line.split() for line in lines if not line.lstrip().startswith("#"))
    return {Path(_unescaped(each[cell])) for each in cells if len(each) > cell}


def _unescaped(text: str) -> str:
    """A path of either table: blanks and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def examine(folder: Path, path: str, *, decode: bool, here: bool = False) -> Found | Rejected:
    """One file: found, or rejected with a reason.

    Args:
        folder: that its path is relative to.
        path: of the file.
        decode: also decode its images.
        here: the file is opened in this process, which must not be harmed.

    Raises:
        Elsewhere: ``here``, and the file is not known to be harmless.
    """
    if path.endswith("/"):
        return Rejected(path, Reason.UNLISTED, "the images in this folder are missing")
    try:
        with contained("reading it", here=here):
            reading = read(folder / path, here=here)
            header = reading.header
            if decode:
                # A decoder is foreign code that can crash or hang: never in the site's own process.
                if here and not is_plain(reading.dataset):
                    raise Elsewhere
                shapes = [image.shape for image in images(reading.dataset)]
                rows, columns = shapes[0][:2]
                header = replace(header, rows=rows, columns=columns, frames=len(shapes))
            return Found(path, reading.sha256, header)
    except Unusable as verdict:
        return Rejected(path, verdict.reason, verdict.detail)


def crashed(path: str) -> Rejected:
    """The verdict on a file that ended its process, or for which that had to be ended."""
    return Rejected(path, Reason.UNDECODABLE, CRASHED)


def walk(folder: Path) -> Iterator[str]:
    """Every entry below a folder that is not a folder, relative to it.

    Links to folders are followed last, each folder once: so a circle of links ends, and a file's
    path does not change when somebody adds a link to its folder. A folder below that cannot be
    listed is given like a file, with a slash at its end, and is rejected like one.

    Raises:
        DataError: the folder itself is missing or cannot be listed.
    """
    require_folder(folder)
    seen: set[tuple[int, int]] = set()
    folders, links = [PurePosixPath()], deque[PurePosixPath]()
    while folders or links:
        place = folders.pop() if folders else links.popleft()
        try:
            status = (folder / place).stat()
            # By inode: a link may lead back to a folder above, under ever longer paths.
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder / place) as entries:
                inside = sorted(
                    (each.name, _is_folder(each), each.is_symlink()) for each in entries
                )
        except OSError as error:
            if not place.name:
                raise _unlisted(folder, error) from error
            yield f"{place}/"
            continue
        for name, is_folder, is_link in inside:
            if is_folder:
                (links if is_link else folders).append(place / name)
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


def require_dicom(folder: Path, result: Scan) -> None:
    """Require at least one DICOM file, for commands that a person runs.

    Raises:
        DataError: there is none.
    """
    if result.found or any(each.reason not in FOREIGN for each in result.rejected):
        return
    raise DataError(
        "the folder has no DICOM files",
        where=folder,
        found=summary(result.rejected),
        wanted="DICOM files (PS3.10), with or without an extension, at any depth",
        remedy="check that this is the right folder and that this user may read its files",
    )


def entries_of(*places: Path) -> str:
    """A hash that changes with any entry of an archive; never leaves the site.

    Args:
        places: its folders, and its files beside them.

    Raises:
        DataError: a folder cannot be listed.
    """
    # Size, times and inode, not contents: reading an archive of a terabyte takes hours. The
    # change time (ctime) cannot be set back, so a rewritten file with its old date is noticed too.
    entries = hashlib.sha256()
    for place in places:
        inside = sorted(walk(place)) if place.is_dir() else [""]
        for path in (place / each for each in inside):
            entries.update(_entry(path).encode("utf-8", "surrogateescape"))
    return entries.hexdigest()


def _entry(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # deleted meanwhile, or a dangling link: reading it gives the verdict
        return f"{path}\0"
    return f"{path}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}\0"
