"""The public socket: TLS, and what one may cost that has not shown a key yet.

A connection that cannot agree on TLS never becomes a request, so such a one is noted here:
who speaks plain HTTP, and who trusts another authority than ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES: Final = 2**16
"""Of all headers of a request; Flower's take about a thousand."""
HEADER_SECONDS: Final = 20.0
"""How long a connection may take to its first whole request."""
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than a site keeps a connection that nothing goes over."""
STRANGERS: Final = 0.25
"""Part of all connections that one address may hold without having shown an admitted key."""
Client = tuple[str, int]
"""Address and port of who called."""
_REASONS: Final = {
    "HTTP_REQUEST": "plain-http",
    "WRONG_VERSION_NUMBER": "plain-http",
    "HTTPS_PROXY_REQUEST": "plain-http",
    "TLSV1_ALERT_UNKNOWN_CA": "other-authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "other-authority",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "other-authority",
}


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


class Crowd:
    """The connections that are held, and who is behind them.

    A connection is a stranger's until a request on it was let in. One address may hold few of
    those, so that nobody can take up all the room that there is for sites; a site's own count
    for no address, since several may share one.

    Args:
        most: connections at once.
        refused: called with the address of each that is turned away.
    """

    def __init__(self, most: int, refused: Callable[[str], None]) -> None:
        self._most = most
        self._share = max(1, int(most * STRANGERS))
        self._refused = refused
        self._held: set[Client] = set()
        self._strangers: dict[str, set[Client]] = {}

    def enter(self, client: Client) -> bool:
        """Whether there is room for a connection; it is held from now on."""
        there = self._strangers.get(client[0], set())
        if len(self._held) >= self._most or len(there) >= self._share:
            self._refused(client[0])
            return False
        self._held.add(client)
        self._strangers.setdefault(client[0], there).add(client)
        return True

    def known(self, client: Client) -> None:
        """A connection is a site's."""
        there = self._strangers.get(client[0], set())
        there.discard(client)
        if not there:
            self._strangers.pop(client[0], None)

    def leave(self, client: Client) -> None:
        """A connection has ended."""
        self.known(client)
        self._held.discard(client)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which here has to find room, and begin in time and with few headers."""

    _in_headers = True
    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _place: Client | None = None

    def __init__(self, *arguments: Any, crowd: Crowd, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._crowd = crowd

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        if not self.client or not self._crowd.enter(self.client):
            transport.abort()
            return
        self._place = self.client
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._stop_clock()
        if self._place is not None:
            self._crowd.leave(self._place)
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


def server(app: Any, tls: ssl.SSLContext, crowd: Crowd) -> Server:  # noqa: ANN401 - any ASGI app
    """A server of ``app`` that is ready to be given its socket.

    Args:
        app: an ASGI app.
        tls: the context to listen with.
        crowd: the connections that it holds.
    """
    config = uvicorn.Config(
        app,
        http=cast(type[Connection], partial(Connection, crowd=crowd)),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # nobody may say where they call from
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    config.load()
    config.ssl = tls
    return Server(config)
