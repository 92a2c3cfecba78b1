"""Thirty moves of somebody who has the coordinator's address and no key."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import common.wire.flower  # noqa: F401
from common.wire.enrolment import CoordinatorCard, split_address
from tests.siege.move import Move

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.supercore.primitives.asymmetric import sign_message

TIMEOUT: Final = 5.0
"""Seconds that the stranger waits for an answer, which need not come."""
LONG: Final = 24.0
"""Seconds after which whoever says nothing, or little, must have been hung up on."""
CALL: Final = "/v1/fleet/pull-messages"
ESCAPES: Final = "\x1b]0;owned\x07\x1b[2J\u202egnp"


@dataclass
class Stranger:
    """Knows the coordinator's card, as anybody may.

    Attributes:
        card: the coordinator's.
    """

    card: CoordinatorCard

    @property
    def address(self) -> tuple[str, int]:
        """Where the gateway listens."""
        return split_address(self.card.address)

    @property
    def trusting(self) -> ssl.SSLContext:
        """TLS as a site speaks it."""
        return ssl.create_default_context(cadata=self.card.ca)

    def plain(self) -> socket.socket:
        """A connection without TLS."""
        return socket.create_connection(self.address, timeout=TIMEOUT)

    @contextlib.contextmanager
    def line(self, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        """A connection with TLS."""
        with (
            self.plain() as plain,
            (context or self.trusting).wrap_socket(plain, server_hostname=self.address[0]) as made,
        ):
            yield made

    def say(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """Send some bytes and hear what comes, for a while; a broken line is an answer too."""
        with contextlib.suppress(OSError), self.line() as line:
            for part in parts:
                line.sendall(part)
                time.sleep(pause)
            return _heard(line)
        return b""

    def post(
        self,
        path: str = CALL,
        body: bytes = b"",
        told: dict[str, str] | None = None,
        **headers: str,
    ) -> bytes:
        """A whole request; ``_`` in a header's name is ``-``."""
        usual = {"host": "here", "content_length": str(len(body)), "connection": "close"}
        every = usual | (told or {}) | headers
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in every.items())
        return self.say(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    def signed(
        self, key: ec.EllipticCurvePrivateKey, moment: datetime | None = None
    ) -> dict[str, str]:
        """The headers with which a site signs."""
        stamp = (moment or datetime.now(UTC)).isoformat()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return {
            "flwr_public_key": b64encode(public).decode(),
            "flwr_timestamp": stamp,
            "flwr_signature": b64encode(sign_message(key, stamp.encode())).decode(),
            "content_type": "application/protobuf",
        }


def _heard(line: socket.socket) -> bytes:
    heard = b""
    with contextlib.suppress(OSError):
        while len(heard) < 2**16 and (some := line.recv(2**12)):
            heard += some
    return heard


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _opens_and_is_silent(who: Stranger) -> None:
    with who.plain() as line:
        line.settimeout(LONG)
        _heard(line)


def _half_a_handshake(who: Stranger) -> None:
    with who.plain() as line:
        line.settimeout(LONG)
        line.sendall(bytes.fromhex("16030102000100"))
        _heard(line)


def _plain_http(who: Stranger) -> None:
    with who.plain() as line:
        line.sendall(b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")
        _heard(line)


def _another_authority(who: Stranger) -> None:
    with contextlib.suppress(OSError), who.line(ssl.create_default_context()):
        raise AssertionError("a stranger's authority was taken for the coordinator's")


def _trickles(who: Stranger, *before: bytes) -> None:
    parts = [*before, b"POST /v1/fleet/pull-messages HTTP/1.1\r\n"]
    who.say(*parts, *[f"x-{number}: y\r\n".encode() for number in range(int(LONG))], pause=1.0)


def _second_request_trickles(who: Stranger) -> None:
    _trickles(who, b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")


def _body_trickles(who: Stranger) -> None:
    head = f"POST {CALL} HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n".encode()
    who.say(head, *[b"\0"] * 20, pause=0.2)


def _many_half(who: Stranger, number: int = 300) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            with contextlib.suppress(OSError):
                stack.enter_context(who.plain())
        time.sleep(1.0)


def _many_held(who: Stranger, number: int = 200) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            with contextlib.suppress(OSError):
                stack.enter_context(who.line())
        time.sleep(1.0)


def _never_reads(who: Stranger) -> None:
    ask = b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n" * 200
    with contextlib.suppress(OSError), who.line() as line:
        for _ in range(20):
            line.sendall(ask)
        time.sleep(1.0)


def _floods(who: Stranger) -> None:
    key = _new_key()
    for _ in range(60):
        who.post(told=who.signed(key))


def _rsa_key(who: Stranger) -> bytes:
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return who.post(told=who.signed(_new_key()) | {"flwr_public_key": b64encode(pem).decode()})


def _bomb(who: Stranger) -> bytes:
    return who.post(
        body=gzip.compress(bytes(2**26)), content_encoding="gzip", told=who.signed(_new_key())
    )


STRANGE: Final = ("unknown-key", "unsigned", "rate", "signature", "skew")
"""Reasons that a gateway gives whom it does not know; after many, no other than its rate."""
LINES: Final = (
    *("slow-tls", "slow-headers", "slow-body", "slow-answer", "tls", "no-http", "plain-http"),
    *("connections", "pipelined", "malformed"),
)
"""Reasons that it gives whose connection or request is none."""

SCRIPT: Final[tuple[Move[Stranger], ...]] = (
    Move("opens a connection and is silent", _opens_and_is_silent, ("slow-tls",)),
    Move("begins a handshake and stops", _half_a_handshake, ("slow-tls",)),
    Move("speaks plain HTTP", _plain_http, ("plain-http",)),
    Move("trusts another authority", _another_authority, ("other-authority",)),
    Move("trickles headers", _trickles, ("slow-headers",)),
    Move("trickles a second request's headers", _second_request_trickles, ("slow-headers",)),
    Move("trickles a body", _body_trickles, STRANGE),
    Move("a body without an end", lambda who: who.say(
        f"POST {CALL} HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n".encode(),
        *[b"10000\r\n" + bytes(2**16) + b"\r\n"] * 100), STRANGE),
    Move("one giant header", lambda who: who.post(x="y" * 2**20), (*LINES, *STRANGE)),
    Move("a hundred thousand headers", lambda who: who.post(
        told={f"x{number}": "y" for number in range(100_000)}), (*LINES, *STRANGE)),
    Move("a path that is none", lambda who: who.post("/../../etc/passwd"), ("path",)),
    Move("a path that writes to a console", lambda who: who.post(
        "/%1b%5d0%3bowned%07%1b%5b2J%e2%80%ae"), ("path",)),
    Move("a path of raw escapes", lambda who: who.say(
        f"POST /{ESCAPES} HTTP/1.1\r\nhost: here\r\n\r\n".encode()), ("path", *LINES)),
    Move("another method", lambda who: who.say(
        f"DELETE {CALL} HTTP/1.1\r\nhost: here\r\n\r\n".encode()), ("method",)),
    Move("unsigned", lambda who: who.post(), STRANGE),
    Move("signed with a key that nobody knows", lambda who: who.post(
        told=who.signed(_new_key())), STRANGE),
    Move("signed by another's hand", lambda who: who.post(
        told=who.signed(_new_key()) | {"flwr_signature": who.signed(_new_key())["flwr_signature"]}),
        STRANGE),
    Move("signed in another century", lambda who: who.post(
        told=who.signed(_new_key(), datetime(1999, 1, 1, tzinfo=UTC))), STRANGE),
    Move("a time that is none", lambda who: who.post(
        told=who.signed(_new_key()) | {"flwr_timestamp": "yesterday" * 100}), STRANGE),
    Move("a key of another kind", _rsa_key, STRANGE),
    Move("a key in no alphabet", lambda who: who.post(
        told=who.signed(_new_key()) | {"flwr_public_key": "=" * 1000}), STRANGE),
    Move("a body of a million terabytes", lambda who: who.post(
        content_length="9" * 18, told=who.signed(_new_key())), ("size", *LINES, *STRANGE)),
    Move("a body of negative length", lambda who: who.post(content_length="-1"),
         (*LINES, *STRANGE)),
    Move("two lengths", lambda who: who.post(transfer_encoding="chunked"), (*LINES, *STRANGE)),
    Move("another protocol", lambda who: who.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
         (*LINES, *STRANGE, "path", "method")),
    Move("an upgrade", lambda who: who.post(
        connection="upgrade", upgrade="websocket"), (*LINES, *STRANGE)),
    Move("asks and never reads", _never_reads, ("pipelined",)),
    Move("two hundred connections", _many_held, ("connections",)),
    Move("three hundred connections without a word", _many_half, ("connections",)),
    Move("sixty requests in a row", _floods, STRANGE),
    Move("a body that grows when it is unpacked", _bomb, STRANGE),
    Move("starts a run", lambda who: who.post("/v1/control/start-run"), ("path",)),
    Move("asks for tasks", lambda who: who.post("/v1/runtime/pull-task"), ("path",)),
)  # fmt: skip
