"""The files of one cache of decoded images: its index, its data file, its lock.

The format is described in :mod:`client.data.cache`.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.data import parallel
from client.data.dicom import Reason
from common.documents import read_json
from common.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Half = NDArray[np.float16]
DTYPE: Final = np.dtype("<f2")
FEATURES: Final = np.dtype("<f4")
"""Of the features of images."""
MASKS: Final = ".u8"
"""What follows the name of a data file for that with the masks of its images."""
_FORMAT: Final = 2
_INDEX: Final = "index.json"
_LOCK: Final = "lock"


class CachedRows(NamedTuple):
    """The rows of a file's images, and the SHA-256 of their bytes."""

    first: int
    number: int
    digest: str


class CacheRefused(NamedTuple):
    """Why a file has no images."""

    reason: str
    detail: str


CRASHED: Final = CacheRefused(Reason.UNDECODABLE.value, parallel.CRASHED)
CHANGED: Final = CacheRefused(Reason.UNREADABLE.value, "it changed while the folder was being read")


@dataclass(frozen=True)
class Index:
    """What a cache holds: the name of its data file, and its entries in the order of the rows."""

    data: str
    entries: Mapping[str, CachedRows | CacheRefused]

    @property
    def total(self) -> int:
        """Rows of images in the data file."""
        return sum(entry.number for entry in self.entries.values() if isinstance(entry, CachedRows))

    @classmethod
    def load(
        cls,
        home: Path,
        image: tuple[int, int, int],
        *,
        masks: bool = False,
        dtype: np.dtype[Any] = DTYPE,
    ) -> Index:
        """The folder's index, of images of a shape; empty if it is missing or damaged."""
        try:
            stored = read_json((home / _INDEX).read_bytes())
            index = cls(
                stored["data"], {name: _entry(*entry) for name, *entry in stored["entries"]}
            )
            # A data file that was cut short would give other patients' pixels, or a bus error.
            size = (home / index.data).stat().st_size
            whole = size == index.total * prod(image) * dtype.itemsize
            if masks:
                masked = (home / (index.data + MASKS)).stat().st_size
                whole = whole and masked == index.total * prod(image[1:])
        except (OSError, ValueError, KeyError, TypeError):
            return cls("", {})  # then every image is decoded again
        return index if whole and stored["format"] == _FORMAT else cls("", {})

    def save(self, home: Path) -> None:
        """Replace the folder's index in one step, without verdicts that may have been temporary."""
        # A crash or an unreadable file is tried again next time; a wrong file stays wrong.
        kept = {name: entry for name, entry in self.entries.items() if not _passing(entry)}
        entries = [[name, *entry] for name, entry in kept.items()]
        stored = {"format": _FORMAT, "data": self.data, "entries": entries}
        write_atomic(home / _INDEX, json.dumps(stored).encode(), mode=0o600)

    def open(
        self, home: Path, image: tuple[int, int, int], dtype: np.dtype[Any] = DTYPE
    ) -> NDArray[Any]:
        """The images, mapped into memory for reading."""
        if not self.total:
            return np.zeros((0, *image), dtype=dtype)
        return np.memmap(home / self.data, dtype, mode="r", shape=(self.total, *image))

    def open_masks(self, home: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The masks of the images, mapped into memory for reading."""
        if not self.total:
            return np.zeros((0, *size), dtype=np.uint8)
        return np.memmap(home / (self.data + MASKS), np.uint8, mode="r", shape=(self.total, *size))


def _passing(entry: CachedRows | CacheRefused) -> bool:
    """Whether a verdict may have been temporary (no memory, no access): the file is tried again."""
    return entry == CRASHED or (
        isinstance(entry, CacheRefused) and entry.reason == Reason.UNREADABLE
    )


def _entry(first: int | str, second: int | str, digest: str = "") -> CachedRows | CacheRefused:
    if isinstance(first, int) and isinstance(second, int):
        return CachedRows(first, second, digest)
    return CacheRefused(str(first), str(second))


@contextmanager
def data_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read, durable at the end; deleted if not finished."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def tidy(home: Path, *, keep: str) -> None:
    """Delete data files of earlier fillings; a process that has one mapped can still read it."""
    for path in home.iterdir():
        if path.name not in (keep, keep + MASKS, _INDEX, _LOCK):
            path.unlink(missing_ok=True)


@contextmanager
def locked(home: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when a process dies."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
