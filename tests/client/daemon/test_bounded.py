"""What a coordinator may say costs a site's connection little, and never its life."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import structlog

from client.daemon import bounded, connection, fleet, frames
from client.daemon.child import Backoff
from client.daemon.connection import ConnectionState
from client.daemon.fleet import Fleet
from client.daemon.frames import Frame
from client.daemon.line_errors import ForeignCode, NotAdmitted, Offline, Unreadable
from client.node_key import load_node_key
from common.errors import LinkError
from common.wire.enrolment import COORDINATOR_CARD
from common.wire.flower import Message
from tests.client.daemon.liar import BUNDLE, Deceiver, Liar, deceiver, liar
from tests.common.wire.test_bundle import damaged
from tests.waiting import PATIENCE

# isort: split
from flwr.proto.fleet_pb2 import PullMessagesResponse

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
LATE = "an answer or a request that takes too long"
SOCKETS = 2**25
"""Bytes that sockets may hold between two processes, with room to spare."""


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[Liar]:
    with liar(tmp_path / "liar") as it:
        yield it


@pytest.fixture
def deceiving(tmp_path: Path) -> Iterator[Deceiver]:
    with deceiver(tmp_path / "deceiver") as it:
        yield it


def new_fleet(it: Liar | Deceiver, folder: Path) -> Fleet:
    return Fleet(it.card, load_node_key(folder / "node.key", make=True))


def found(it: Liar, folder: Path) -> str:
    """What a site makes of it."""
    fleet = new_fleet(it, folder)
    try:
        with pytest.raises(Offline) as caught:
            fleet.connect()
    finally:
        fleet.close()
    return caught.value.details["found"]


def without_end(it: Liar, first: bytes, rest: bytes) -> Callable[[ssl.SSLSocket], None]:
    def speech(secure: ssl.SSLSocket) -> None:
        it.say(secure, first)
        while it.sent < 2 * SOCKETS:
            it.say(secure, rest)

    return speech


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (CHUNKED, CHUNK),
        (OK + b"content-length: 1099511627776\r\n\r\n", b"x" * 2**16),
        (OK + b"\r\n", b"x" * 2**16),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 2**10),
        (OK, b"a: b\r\n" * 2**10),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 2**8),
    ],
    ids=["chunks", "a length", "no length", "trailers", "headers", "announcements"],
)
def test_an_answer_without_end_is_given_up(
    lying: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes, rest: bytes
) -> None:
    monkeypatch.setattr(bounded, "LARGEST_ANSWER", 2**20)
    lying.speech = without_end(lying, first, rest)
    assert found(lying, tmp_path) in ("an answer that is too long", "the line broke")
    assert lying.sent < SOCKETS


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
def test_an_answer_that_was_compressed_is_refused_unread(
    lying: Liar, tmp_path: Path, encoding: str
) -> None:
    bomb = gzip.compress(bytes(2**24)) if "gzip" in encoding else zlib.compress(bytes(2**24))
    told = f"content-encoding: {encoding}\r\ncontent-length: {len(bomb)}\r\n\r\n"
    lying.speech = lambda secure: lying.say(secure, OK + told.encode() + bomb)
    assert found(lying, tmp_path) == "an answer that was compressed"


def test_what_is_asked_for_is_plain(lying: Liar, tmp_path: Path) -> None:
    heard: list[bytes] = []

    def speech(secure: ssl.SSLSocket) -> None:
        heard.append(secure.recv(2**14))

    lying.speech = speech
    client = bounded.client(
        fleet._trust(lying.card.ca),  # noqa: SLF001
        httpx.Timeout(PATIENCE),
        httpx.Limits(max_connections=1),
        [],
    )
    with suppress(httpx.HTTPError):
        client.post(f"https://{lying.card.address}/", content=b"x" * 2**15)
    assert client.headers["accept-encoding"] == "identity"
    assert heard


@pytest.mark.parametrize(
    ("first", "rest"),
    [(b"", b"H"), (OK, b"a"), (CHUNKED, b"1\r\nx\r\n")],
    ids=["a first line", "a header", "a body"],
)
def test_an_answer_that_trickles_is_given_up(
    lying: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes, rest: bytes
) -> None:
    """However often something comes."""
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 0.5)

    def speech(secure: ssl.SSLSocket) -> None:
        lying.say(secure, first)
        end = time.monotonic() + PATIENCE / 4
        while time.monotonic() < end:
            lying.say(secure, rest if first or lying.sent else b"HTTP/1.1 200 ")
            time.sleep(0.05)

    lying.speech = speech
    assert found(lying, tmp_path) in (LATE, "no answer in time")


def test_a_request_that_is_taken_by_the_byte_is_given_up(
    lying: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "REQUEST_SECONDS", 0.5)
    gone = threading.Event()

    def speech(secure: ssl.SSLSocket) -> None:
        while not gone.wait(0.05):
            secure.recv(2**12)

    lying.speech = speech
    client = bounded.client(
        fleet._trust(lying.card.ca),  # noqa: SLF001
        httpx.Timeout(PATIENCE),
        httpx.Limits(max_connections=1),
        [],
    )
    with client, pytest.raises((httpx.RemoteProtocolError, httpx.TimeoutException)):
        client.post(f"https://{lying.card.address}/", content=b"x" * 2**27)
    gone.set()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" * 10**5, "401"),
        (b'{"code": 7}', "7"),
        (b'{"code": "%s"}' % (b"x" * 10**5), "x" * 64),
        (b'{"code": "clock", "ahead": [1]}', "401"),
        (b'{"code": "suspended", "ahead": 1e999, "x": %s}' % (b"9" * 10**4), "401"),
        (b"[1]", "401"),
        (b"\xff\xfe\xfd", "401"),
    ],
)
def test_a_reason_that_cannot_be_read_is_none(
    lying: Liar, tmp_path: Path, body: bytes, code: str
) -> None:
    head = b"HTTP/1.1 401 No\r\ncontent-length: %d\r\n\r\n" % len(body)
    lying.speech = lambda secure: lying.say(secure, head + body)
    fleet = new_fleet(lying, tmp_path)
    with pytest.raises(NotAdmitted) as caught:
        fleet.connect()
    fleet.close()
    assert caught.value.code == code


def test_a_reason_is_not_decoded_as_whatever_it_says_that_it_is(
    lying: Liar, tmp_path: Path
) -> None:
    """Python has a character set that unpacks; a few bytes of it may be gigabytes of text."""
    body = zlib.compress(b'{"code": "suspended"}')
    kind = b"content-type: application/json; charset=zlib_codec\r\n"
    head = b"HTTP/1.1 401 No\r\n" + kind + b"content-length: %d\r\n\r\n" % len(body)
    lying.speech = lambda secure: lying.say(secure, head + body)
    fleet = new_fleet(lying, tmp_path)
    with pytest.raises(NotAdmitted) as caught:
        fleet.connect()
    fleet.close()
    assert caught.value.code == "401"


@pytest.mark.parametrize("date", ["never", "Thu, 26 Nov 2026 06:00:00 -0000", ""])
def test_a_date_that_is_none_is_an_answer_that_cannot_be_read(
    lying: Liar, tmp_path: Path, date: str
) -> None:
    told = f"date: {date}\r\n" if date else ""
    head = f"HTTP/1.1 200 OK\r\n{told}content-length: 2\r\n\r\n{{}}"
    lying.speech = lambda secure: lying.say(secure, head.encode())
    assert found(lying, tmp_path) == "an answer that cannot be read"


BROKEN: dict[str, Callable[[Deceiver], bytes]] = {
    "a header without its parts": lambda it: _without_tree(it.work()),
    "parts of nothing": lambda it: b"\x1a\x02\x0a\x00",
    "no message of protobuf": lambda it: b"\xff\xff",
    "a long one": lambda it: PullMessagesResponse().SerializeToString() + b"\x7a\x00" * 2**20,
}


def _without_tree(work: bytes) -> bytes:
    pulled = PullMessagesResponse.FromString(work)
    del pulled.message_object_trees[:]
    return pulled.SerializeToString()


@pytest.mark.parametrize("broken", [name for name in BROKEN if name != "parts of nothing"])
def test_a_poll_that_cannot_be_read_breaks_the_line_and_no_more(
    deceiving: Deceiver, tmp_path: Path, broken: str
) -> None:
    fleet = new_fleet(deceiving, tmp_path)
    fleet.connect()
    deceiving.answers = [BROKEN[broken](deceiving), deceiving.work()]
    with pytest.raises(Offline, match=r"cannot be read|too long"):
        fleet.pull()
    fleet.connect()
    assert isinstance(fleet.pull(), Message)
    fleet.close()


def test_a_message_that_is_larger_than_any_is_given_up_and_the_next_one_pulled(
    deceiving: Deceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = new_fleet(deceiving, tmp_path)
    fleet.connect()
    deceiving.answers = [deceiving.work(), deceiving.work(2)]
    with monkeypatch.context() as small, structlog.testing.capture_logs() as logged:
        small.setattr("client.daemon.fleet.LARGEST_MESSAGE", 100)
        with pytest.raises(Unreadable):
            fleet.pull()
    assert [(each["event"], each["reason"]) for each in logged] == [("fleet.refused", "size")]
    assert isinstance(fleet.pull(), Message)
    fleet.close()


def test_a_bundle_that_is_broken_is_foreign_and_the_next_run_is_heard(
    deceiving: Deceiver, tmp_path: Path
) -> None:
    fleet = new_fleet(deceiving, tmp_path)
    fleet.connect()
    deceiving.bundles[9] = damaged(BUNDLE)
    deceiving.answers = [deceiving.work(9), deceiving.work()]
    with pytest.raises(ForeignCode, match="not a bundle"):
        fleet.pull()
    assert isinstance(fleet.pull(), Message)
    fleet.close()


@pytest.mark.long
def test_the_process_outlives_all_of_it_and_hands_on_what_is_sound(
    deceiving: Deceiver, tmp_path: Path
) -> None:
    """The program that a daemon runs, told what a hostile coordinator tells it."""
    state = tmp_path / "state"
    state.mkdir()
    (state / COORDINATOR_CARD).write_text(deceiving.card.text)
    load_node_key(state / "node.key", make=True)
    garbled = deceiving.work(3)
    deceiving.objects |= dict.fromkeys(deceiving.objects, b"no object")
    deceiving.bundles[9] = damaged(BUNDLE)
    foreign = deceiving.work(9)
    deceiving.answers = [garbled, foreign, *(broken(deceiving) for broken in BROKEN.values())]
    deceiving.answers.append(deceiving.work(1, "train." + "x" * 2**19))
    ours, its = socket.socketpair()
    ours.settimeout(PATIENCE)
    command = [sys.executable, "-m", "client.daemon.connection", str(its.fileno()), str(state)]
    with (
        ours,
        subprocess.Popen(
            [*command, str(os.getpid()), "json"],
            pass_fds=(its.fileno(),),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        its.close()
        frames.send(ours, Frame("go"))
        heard = []
        while (frame := frames.receive(ours)) is not None:
            heard.append(frame)
            if frame.kind == "request":
                break
        assert process.poll() is None
        ours.shutdown(socket.SHUT_RDWR)
        said = process.communicate(timeout=PATIENCE)
    kinds = [frame.kind for frame in heard]
    assert kinds[-1] == "request", (kinds, said)
    assert {"unreadable", "foreign"} <= set(kinds)
    assert len(heard[-1].fields["purpose"]) <= 64
    assert process.returncode == 0


def test_who_lets_a_site_in_and_says_nothing_sound_is_asked_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[float] = []
    enough = threading.Event()

    class Impatient(Backoff):
        def next(self) -> float:
            bounds.append(self._bound)
            super().next()
            if len(bounds) == 5:
                enough.set()
            return 0.0 if len(bounds) < 5 else PATIENCE

    class Garbler:
        """A line that comes about, and breaks at every poll."""

        twins = ""

        def connect(self) -> None:
            pass

        def pull(self) -> Message | None:
            raise Offline("an answer that cannot be read")

        def push(self, reply: Message) -> bool:
            raise LinkError("never asked")

        def close(self) -> None:
            pass

    monkeypatch.setattr(connection, "Backoff", Impatient)
    ours, its = socket.socketpair()
    serving = threading.Thread(target=ConnectionState(its, Garbler).serve)
    serving.start()
    with ours:
        frames.send(ours, Frame("go"))
        assert enough.wait(PATIENCE)
        ours.shutdown(socket.SHUT_RDWR)
        serving.join(PATIENCE)
    its.close()
    assert bounds == [1.0, 2.0, 4.0, 8.0, 16.0]
