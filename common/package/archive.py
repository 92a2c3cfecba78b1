"""The file of a package: a ZIP with members of fixed names, stored as they are.

Nothing is ever unpacked to disk, and nothing is taken as good: a file is read if it is exactly what
:func:`pack` makes of its members, to the last byte. So no name can lead out of a folder, nothing
can unpack to more than the file's size, and no second archive hides behind the first. Each other
way to make one is refused by its name.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.errors import PackageError, of_system
from common.files import sha256

STATEMENT: Final = "package.json"
SIGNATURE: Final = "signature.json"
STUDY: Final = "study.json"
WEIGHTS: Final = "weights.safetensors"
EARLIER: Final = "earlier.safetensors"
GRAPH: Final = "model.onnx"
CARD: Final = "card.md"
CARD_PAGE: Final = "card.html"
MEMBERS: Final = (STATEMENT, SIGNATURE, STUDY, WEIGHTS, EARLIER, GRAPH, CARD, CARD_PAGE)
"""In this order; all of them are there."""
MOST_BYTES: Final = 2**32
"""Of a package: weights, those of three rounds before and a graph, of the largest model each."""
MOST_TEXT: Final = 2**24
"""Bytes of a member that is read as text."""
MOST_CARD: Final = 2**20
"""Bytes of a card: more takes minutes to show."""
_ZIP, _EMPTY_ZIP, _LARGER_ZIP = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"
_MOST_DIRECTORY: Final = 4096
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_WANTED: Final = "the file that a coordinator's result --out or a simulation's run wrote"
_AGAIN: Final = "ask for the package again; nothing in it was opened or run"


def pack(members: Mapping[str, bytes]) -> bytes:
    """The bytes of a package; the same members give the same bytes.

    Args:
        members: all of :data:`MEMBERS`.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in MEMBERS:
            # Named times, or two packages of one model would differ.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same on every machine
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def unpack(path: Path) -> tuple[dict[str, bytes], str]:
    """The members of a package, none of them opened, and the SHA-256 of the file.

    Raises:
        PackageError: the file cannot be read, or is not exactly what :func:`pack` writes.
    """
    data = _content(path)
    if not data.startswith((_ZIP, _EMPTY_ZIP)):
        raise _other(path, data)
    _require_short_directory(path, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            for entry in entries:
                _require_plain(path, entry)
            _require_all(path, [entry.filename for entry in entries])
            if sum(entry.file_size for entry in entries) > len(data):
                raise refused(path, "its members lie over each other")
            members = {entry.filename: archive.read(entry) for entry in entries}
    except (
        *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError),
        *(EOFError, OSError, ValueError, OverflowError),
    ) as cause:
        raise refused(path, "its ZIP archive is damaged or cut short") from cause
    if pack(members) != data:
        raise refused(path, "bytes in it belong to no member, or its archive was made otherwise")
    return members, sha256(data)


def is_pickle(data: bytes) -> bool:
    """Whether bytes begin as a pickle does; those of another format may too."""
    return _PICKLE.match(data) is not None


def refused(path: Path, found: str) -> PackageError:
    """The error for a package that is not opened."""
    return PackageError(
        "this model package was refused", where=path, found=found, wanted=_WANTED, remedy=_AGAIN
    )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise refused(path, f"more than {MOST_BYTES >> 30} GiB")
            # No more than it has: room for the largest is not to be had on every machine.
            data = file.read(size)
    except FileNotFoundError as cause:
        raise PackageError(
            "there is no such file", where=path, wanted=_WANTED, remedy="check the path"
        ) from cause
    except OSError as cause:
        raise of_system(cause, PackageError, where=path) from cause
    return data


def _other(path: Path, data: bytes) -> PackageError:
    """The error for what is no ZIP at all: weights alone are easily taken for a package."""
    if data[8:9] == b"{":
        return refused(path, "weights alone (safetensors), without the rest of a package")
    if is_pickle(data):
        return refused(path, "a pickle, as torch.save writes: opening one can run any program")
    return refused(path, "not a ZIP archive" if data else "an empty file")


def _require_short_directory(path: Path, data: bytes) -> None:
    """Else a file of 4 GiB could list millions of members, each of them some memory."""
    # The last 22 bytes of a file without comment (4.3.16 of the format); 12 in is the directory's
    # size. A file above 2 GiB has a larger record before them (4.3.14), and where that is (4.3.15).
    record, larger = data[-22:], data[-98:-42]
    if not record.startswith(_EMPTY_ZIP):
        raise refused(path, "its ZIP archive is damaged, cut short or made otherwise")
    size = int.from_bytes(record[12:16], "little")
    if data[-42:-38] == _LARGER_ZIP:
        size = int.from_bytes(larger[40:48], "little")
    if size > _MOST_DIRECTORY:
        raise refused(path, "a list of members far longer than a package's")


def _require_plain(path: Path, entry: zipfile.ZipInfo) -> None:
    name, mode = entry.orig_filename, entry.external_attr >> 16
    if name.endswith(("data.pkl", ".pkl", ".pickle", ".pt", ".pth", ".bin")):
        raise refused(path, "it holds a pickle: opening one can run any program")
    if ".." in name or name.startswith(("/", "\\")) or "\\" in name or ":" in name:
        raise refused(path, "a member's name leads to another folder")
    if stat.S_ISLNK(mode):
        raise refused(path, "a member is a link")
    if entry.flag_bits & 0x1:
        raise refused(path, "a member is encrypted")
    if name not in MEMBERS:
        raise refused(path, f"a member that no package has: {name[:60]!a}")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise refused(path, f"{name} is compressed, and could unpack to any size")


def _require_all(path: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise refused(path, "a member is there twice")
    missing = [name for name in MEMBERS if name not in names]
    if missing:
        raise refused(path, f"without {', '.join(missing)}")
    if tuple(names) != MEMBERS:
        raise refused(path, "its members are in another order")
