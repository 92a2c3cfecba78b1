"""How the processes of a site's daemon speak: frames over a pair of sockets.

A frame is the length of a header (4 bytes), the header (JSON), the length of a payload
(8 bytes) and the payload, which is a whole Flower message, or nothing. Lengths are
little-endian. Both ends are processes of this daemon, so what is malformed is a defect.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Final

from common.documents import read_json

LARGEST_HEADER: Final = 2**20
LARGEST_PAYLOAD: Final = 2**33
_HEADER: Final = struct.Struct("<I")
_PAYLOAD: Final = struct.Struct("<Q")


class BrokenFrame(Exception):  # noqa: N818 - the other end died in the middle of a word
    """The stream ended within a frame, or holds what no frame can."""


@dataclass(frozen=True)
class Frame:
    """One thing said.

    Attributes:
        kind: what it is about.
        fields: what JSON can hold.
        payload: bytes of a Flower message, or none.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    payload: bytes = field(default=b"", repr=False)

    @property
    def head(self) -> bytes:
        """All that goes before the payload."""
        header = json.dumps({"kind": self.kind, **self.fields}).encode()
        return _HEADER.pack(len(header)) + header + _PAYLOAD.pack(len(self.payload))


def send(end: socket.socket, frame: Frame) -> None:
    """Send a frame; returns when the kernel has all of it."""
    end.sendall(frame.head)
    end.sendall(frame.payload)


def receive(end: socket.socket) -> Frame | None:
    """The next frame; None where the other end has closed between two.

    Raises:
        BrokenFrame: it closed within one.
    """
    first = _exactly(end, _HEADER.size)
    if not first:
        return None
    header = _exactly(end, _size(_HEADER, first, LARGEST_HEADER))
    payload = _exactly(end, _size(_PAYLOAD, _exactly(end, _PAYLOAD.size), LARGEST_PAYLOAD))
    return _frame(header, payload)


async def write(writer: asyncio.StreamWriter, frame: Frame) -> None:
    """Send a frame, as slowly as the other end takes it."""
    writer.write(frame.head)
    if frame.payload:
        writer.write(frame.payload)
    await writer.drain()


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None where the other end has closed, within a frame or between two.

    A process that is killed closes at any place, which is no error for its supervisor.

    Raises:
        BrokenFrame: the stream holds what no frame can.
    """
    try:
        size = _size(_HEADER, await reader.readexactly(_HEADER.size), LARGEST_HEADER)
        header = await reader.readexactly(size)
        size = _size(_PAYLOAD, await reader.readexactly(_PAYLOAD.size), LARGEST_PAYLOAD)
        payload = await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _frame(header, payload)


def _exactly(end: socket.socket, size: int) -> bytes:
    """That many bytes; none where the stream ended before the first of them."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = end.recv_into(view[got:])
        if not count:
            if got or size != _HEADER.size:
                raise BrokenFrame("the stream ended within a frame")
            return b""
        got += count
    return bytes(data)


def _size(form: struct.Struct, data: bytes, most: int) -> int:
    (size,) = form.unpack(data)
    if size > most:
        raise BrokenFrame("a length that no frame has")
    return int(size)


def _frame(header: bytes, payload: bytes) -> Frame:
    try:
        fields = read_json(header)
        return Frame(fields.pop("kind"), fields, payload)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BrokenFrame("a header that cannot be read") from error
