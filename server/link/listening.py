"""The public socket: TLS, and what one may cost that has not shown a key yet.

A connection that cannot agree on TLS never becomes a request, so such a one is noted here:
who speaks plain HTTP, and who trusts another authority than ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES: Final = 2**16
"""Of all headers of a request; Flower's take about a thousand."""
HEADER_SECONDS: Final = 20.0
"""How long a connection may take to its first whole request."""
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than a site keeps a connection that nothing goes over."""
_REASONS: Final = {
    "HTTP_REQUEST": "plain-http",
    "WRONG_VERSION_NUMBER": "plain-http",
    "HTTPS_PROXY_REQUEST": "plain-http",
    "TLSV1_ALERT_UNKNOWN_CA": "other-authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "other-authority",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "other-authority",
}


def new_loop() -> asyncio.AbstractEventLoop:
    """The event loop to serve on: TLS costs half on it of what it costs on asyncio's own."""
    return uvloop.new_event_loop()


def watched(context: ssl.SSLContext, failed: Callable[[str], None]) -> ssl.SSLContext:
    """Have ``failed`` called with the reason of each handshake on this context that fails."""

    class Watched(ssl.SSLObject):
        """One connection's TLS."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                failed(_REASONS.get(error.reason or "", "tls"))
                raise

    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = Watched
    return context


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which here has to begin in time and with few headers."""

    _in_headers = True
    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._stop_clock()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        self._in_headers = False
        self._stop_clock()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count what headers take."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self.transport.abort()

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """uvicorn, which leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def server(app: Any, tls: ssl.SSLContext, connections: int) -> Server:  # noqa: ANN401 - any ASGI app
    """A server of ``app`` that is ready to be given its socket.

    Args:
        app: an ASGI app.
        tls: the context to listen with.
        connections: how many to hold at once.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # nobody may say where they call from
        server_header=False,
        limit_concurrency=connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    config.load()
    config.ssl = tls
    return Server(config)
