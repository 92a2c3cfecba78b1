"""The gateway's HTTP client to the SuperLink: small, for one known server.

It sends requests with a body and reads answers with a body, over TLS connections that are kept
open. Parsing is httptools', which the server uses too. Nothing is tried twice: some of Flower's
calls must not be repeated.

Not ``httpx``, because every request of every site goes through here. Measured side by side over
TLS on loopback (httpx 0.28, two cores, November 2026), CPU seconds of the client for 1,000 calls:

=====================  ====  =====
call                   here  httpx
=====================  ====  =====
200 bytes, 100 back    0.07    1.5
2 MiB, 100 bytes back   1.8    3.9
200 bytes, 4 MiB back   6.1   21.0
=====================  ====  =====
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import httptools

from common.errors import LinkError

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
# Shorter than the SuperLink's: otherwise it could close a connection just as a request is sent,
# and such a request must not be sent again.
KEEP_SECONDS: Final = 60.0
"""How long an unused connection is kept."""


@dataclass(frozen=True)
class Answer:
    """What the SuperLink said.

    Attributes:
        status: of HTTP.
        kind: the content type, if there is one.
        body: the content.
    """

    status: int
    kind: str | None
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, body: bytes) -> Answer:
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._kind: str | None = None
        self._body: list[bytes] = []
        self._answer = asyncio.get_running_loop().create_future()
        # One write for a small request, so that it leaves as one TLS record; a large body is not
        # copied.
        self._transport.write(request + body if len(body) < 2**16 else request)
        if len(body) >= 2**16:
            self._transport.write(body)
        answer = await self._answer
        self._answer = None
        self.used = time.monotonic()
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the SuperLink hung up"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._kind = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            status = self._parser.get_status_code()
            self._answer.set_result(Answer(status, self._kind, b"".join(self._body)))
        if not self._parser.should_keep_alive():
            self.close()


class SuperLinkClient:
    """Connections to the SuperLink.

    Args:
        address: ``host:port``.
        tls: the context to connect with.
        headers: of every request.
    """

    def __init__(self, address: str, tls: ssl.SSLContext, headers: Mapping[str, str]) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._tls = tls
        self._common = _lines({"host": address} | dict(headers))
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request and wait for its answer.

        Args:
            path: of the URL.
            body: the content.
            headers: of this request. None may contain a line break: it would begin a new header.

        Raises:
            LinkError: there was no answer.
        """
        length = {"content-length": str(len(body))}
        head = f"POST {path} HTTP/1.1\r\n{self._common}{_lines(dict(headers) | length)}\r\n"
        connection = None
        try:
            connection = self._kept() or await self._connect()
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await connection.ask(head.encode("latin-1"), body)
        except BaseException as error:
            # Cancelled or late: the rest of this answer must not reach the next request.
            if connection is not None:
                connection.close()
            if isinstance(error, (OSError, TimeoutError)):
                raise LinkError("the SuperLink does not answer", found=type(error).__name__) from (
                    error
                )
            raise
        if connection.open:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        """The connection that was used last, so that those not needed grow old and are closed."""
        now = time.monotonic()
        while self._idle and now - self._idle[0].used > KEEP_SECONDS:
            self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, self._host, self._port, ssl=self._tls
            )
        return connection


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
