"""Messages between the processes of one simulation, where large arrays are sent once.

The parts of a message that are large, mostly the model's weights, are left out of its bytes and
named in their place. All requests of a round hold the same object, so it is stored once.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any, Final

LARGE: Final = 2**15
"""Bytes from which a part is left out."""
Put = Callable[[bytes], object]
Get = Callable[[Any], bytes]
Place = tuple[int, int, int]
"""Of a large part: the shelf's generation, the first byte, the length."""


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, put: Put) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._put = put

    def persistent_id(self, obj: Any) -> object:  # noqa: ANN401 - as pickle's own
        """What stands for a large part; None for all others, which are written."""
        return self._put(obj) if type(obj) is bytes and len(obj) >= LARGE else None


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, get: Get) -> None:
        super().__init__(file)
        self._get = get

    def persistent_load(self, pid: Any) -> bytes:  # noqa: ANN401 - as pickle's own
        """The part that this stands for."""
        return self._get(pid)


def packed(value: object, put: Put) -> bytes:
    """A value as bytes; what is large goes to ``put``, which names it."""
    file = io.BytesIO()
    _Packer(file, put).dump(value)
    return file.getvalue()


def unpacked(data: bytes, get: Get) -> Any:  # noqa: ANN401 - whatever was packed
    """The value; ``get`` gives what a name stands for. Only for bytes of our own processes."""
    return _Unpacker(io.BytesIO(data), get).load()


def memory_file() -> int:
    """A file in memory without a name, which goes with the last process that has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("consilium", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # pragma: no cover - not on Linux
        return os.dup(file.fileno())


class Shelf:
    """Large parts in a memory file, written by one process and read by others.

    Args:
        file: number of the open file.
    """

    def __init__(self, file: int) -> None:
        self._file, self._end = file, 0
        self._generation = 0
        # The parts themselves, so that no other gets the same id while it is named here.
        self._kept: dict[int, tuple[bytes, Place]] = {}

    def put(self, part: bytes) -> Place:
        """Write a part once; gives generation, first byte and length."""
        if id(part) not in self._kept:
            place = (self._generation, self._end, len(part))
            view = memoryview(part)
            while view:
                done = os.pwrite(self._file, view, self._end)
                self._end, view = self._end + done, view[done:]
            self._kept[id(part)] = part, place
        return self._kept[id(part)][1]

    def clear(self) -> None:
        """Forget all parts; nobody may still have to read one."""
        if self._kept:
            self._kept.clear()
            self._generation, self._end = self._generation + 1, 0


class Reader:
    """Reads the parts of a shelf, each once while they are the newest.

    Args:
        file: number of the open file.
    """

    def __init__(self, file: int) -> None:
        self._file, self._generation = file, -1
        self._read: dict[int, bytes] = {}

    def get(self, place: Place) -> bytes:
        """A part, by what ``put`` gave."""
        if place[0] != self._generation:
            self._generation, self._read = place[0], {}
        if place[1] not in self._read:
            self._read[place[1]] = read_part(self._file, place)
        return self._read[place[1]]


def read_part(file: int, place: Place) -> bytes:
    """A part of a shelf, by what ``put`` gave."""
    _, first, length = place
    data = os.pread(file, length, first)
    while len(data) < length:  # of one call the kernel gives two gigabytes at most
        data += os.pread(file, length - len(data), first + len(data))
    return data
