"""Frames over a pair of sockets, by either kind of end."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.daemon import frames
from client.daemon.frames import BrokenFrame, Frame

FRAMES = st.builds(
    Frame,
    st.text(min_size=1, max_size=20),
    st.dictionaries(
        st.text(max_size=10).filter(lambda name: name != "kind"),
        st.one_of(st.integers(), st.text(max_size=50), st.none(), st.booleans()),
        max_size=4,
    ),
    st.binary(max_size=2000),
)


@given(st.lists(FRAMES, max_size=5))
def test_what_is_sent_is_received_and_then_the_end(sent: list[Frame]) -> None:
    ours, its = socket.socketpair()
    with its:
        with ours:
            for frame in sent:
                frames.send(ours, frame)
        received = list(iter(lambda: frames.receive(its), None))
    assert received == sent


def test_a_large_payload_passes_between_a_blocking_and_an_asynchronous_end() -> None:
    payload = bytes(range(256)) * 2**15
    ours, its = socket.socketpair()

    def echo() -> None:
        with its:
            while (frame := frames.receive(its)) is not None:
                frames.send(its, frame)

    async def talk() -> list[Frame | None]:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        await frames.write(writer, Frame("request", {"number": 1}, payload))
        first = await frames.read(reader)
        ours.shutdown(socket.SHUT_WR)
        last = await frames.read(reader)
        writer.close()
        return [first, last]

    thread = threading.Thread(target=echo)
    thread.start()
    first, last = asyncio.run(talk())
    thread.join(10)
    assert first == Frame("request", {"number": 1}, payload)
    assert last is None


@pytest.mark.parametrize("cut", [2, 10, 30])
def test_an_end_within_a_frame_is_told_from_one_between_two(cut: int) -> None:
    frame = Frame("request", {"a": 1}, b"x" * 20)
    ours, its = socket.socketpair()
    with its:
        with ours:
            ours.sendall((frame.head + frame.payload)[:cut])
        with pytest.raises(BrokenFrame):
            frames.receive(its)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 2**31),
        struct.pack("<I", 2) + b"[]" + struct.pack("<Q", 0),
        struct.pack("<I", 2) + b"{}" + struct.pack("<Q", 0),
        struct.pack("<I", 3) + b"\xff{}" + struct.pack("<Q", 0),
        struct.pack("<I", 2) + b"{}" + struct.pack("<Q", 2**60),
    ],
)
def test_what_is_no_frame_is_never_read_as_one(data: bytes) -> None:
    ours, its = socket.socketpair()
    with its, ours:
        ours.sendall(data)
        with pytest.raises(BrokenFrame):
            frames.receive(its)
