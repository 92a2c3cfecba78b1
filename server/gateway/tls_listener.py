"""The public socket: connections as they come, TLS, and how long each part of a request may take.

All that a connection may take its time for has a deadline: agreeing on TLS, being known as a
site's (:mod:`server.gateway.connection_limiter`), the headers of each request, its body, and
taking an answer. Whoever is later is cut off, and the gateway told why. A connection that cannot
agree on TLS
never becomes a request, so such a one is told of here too: who speaks plain HTTP, and who trusts
another authority than ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.gateway.connection_limiter import Client, ConnectionLimiter, HeldConnection

HEADER_BYTES: Final = 2**16
"""Of all of a request that is not its body, trailers included; Flower's take about a thousand."""
TLS_SECONDS: Final = 20.0
"""How long both sides may take to agree on TLS."""
HEADER_SECONDS: Final = 20.0
"""How long the headers of a request may take from their first byte on."""
BODY_SECONDS: Final = 190.0
"""How long a body may take; longer than the gateway reads one of a site's, which is told so."""
ANSWER_SECONDS: Final = 180.0
"""How long whoever asked may take to read what was answered."""
CLOSING_SECONDS: Final = 20.0
"""How long the other side may take to take leave, and what is not sent yet to be taken."""
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than a site keeps a connection that nothing goes over."""
NO_MORE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says where it has no room for another connection."""
_REASONS: Final = {
    "HTTP_REQUEST": "plain-http",
    "WRONG_VERSION_NUMBER": "plain-http",
    "HTTPS_PROXY_REQUEST": "plain-http",
    "TLSV1_ALERT_UNKNOWN_CA": "other-authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "other-authority",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "other-authority",
}
OnEnded = Callable[[str, str | None, str], None]
"""Told why a connection was ended, whose it was where that is known, and the address."""
log = structlog.get_logger()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection, here with deadlines, few headers, and one request at a time.

    Args:
        arguments: uvicorn's.
        place: that it takes up.
        crowd: all places.
        ended: told where it is cut off.
        options: uvicorn's.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - uvicorn's
        place: HeldConnection,
        crowd: ConnectionLimiter,
        ended: OnEnded,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*arguments, **options)
        self._place, self._crowd, self._ended = place, crowd, ended
        self._deadlines: dict[str, float] = {}
        self._beside = 0
        self._over = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """TLS is agreed on."""
        super().connection_made(transport)
        self._place.cut = transport.abort

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._deadlines.clear()
        self._crowd.leave(self._place)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is not body, and see that a request which has begun also ends."""
        if self.transport.is_closing():
            return
        self._beside += len(data)
        super().data_received(data)
        if self._beside > HEADER_BYTES:
            self._end("size")
        elif self._over and self._beside:  # what is no request yet, such as an empty line
            self._start("slow-headers", HEADER_SECONDS)

    def on_message_begin(self) -> None:
        """A request begins; one before the last was answered is not for us to keep."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._end("pipelined")
        self._over = False
        self._start("slow-headers", HEADER_SECONDS)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        self._stop("slow-headers")
        if self.transport.is_closing():
            return
        self._start("slow-body", BODY_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body is."""
        self._beside -= len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is."""
        self._over, self._beside = True, 0
        self._stop("slow-body")
        if self.cycle is not None:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Whoever asked does not read as fast as it is answered."""
        self._start("slow-answer", ANSWER_SECONDS)
        super().pause_writing()

    def resume_writing(self) -> None:
        """They have read what was handed over to be sent."""
        if self.cycle is None or self.cycle.response_complete:
            self._stop("slow-answer")
        super().resume_writing()

    def on_response_complete(self) -> None:
        """All of an answer was handed over."""
        if not self.flow.write_paused:
            self._stop("slow-answer")
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._tell("no-http")
        super().send_400_response(msg)

    def look(self, now: float) -> None:
        """End the connection where something takes too long."""
        late = [reason for reason, deadline in self._deadlines.items() if deadline < now]
        if late:
            self._end(late[0])

    def _start(self, reason: str, seconds: float) -> None:
        self._deadlines.setdefault(reason, time.monotonic() + seconds)

    def _stop(self, reason: str) -> None:
        self._deadlines.pop(reason, None)

    def _end(self, reason: str) -> None:
        self._deadlines.clear()
        if not self.transport.is_closing():
            self._tell(reason)
        self.transport.abort()

    def _tell(self, reason: str) -> None:
        self._ended(reason, self._place.site, self._place.client[0])


class Server(uvicorn.Server):
    """uvicorn, which here takes connections itself, and leaves signals to whoever runs it.

    Args:
        config: uvicorn's.
        tls: the context to listen with.
        crowd: the connections that it holds.
        ended: told why a connection was ended.
    """

    def __init__(
        self, config: uvicorn.Config, tls: ssl.SSLContext, crowd: ConnectionLimiter, ended: OnEnded
    ) -> None:
        super().__init__(config)
        self._tls, self._crowd, self._ended = tls, crowd, ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections from these sockets."""
        await self.lifespan.startup()
        self.servers = []
        for listener in sockets or []:
            task = asyncio.create_task(self._accept(listener))
            task.add_done_callback(self._deaf)
            self._accepting.append(task)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, and end those that are held.

        Raises:
            Exception: what it could not take connections for.
        """
        for task in (*self._accepting, *self._tasks):
            task.cancel()
        await super().shutdown(sockets)
        for task in self._accepting:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: look at every deadline."""
        now = time.monotonic()
        self._crowd.tidy(now)
        for connection in list(self.server_state.connections):
            cast(HttpConnection, connection).look(now)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, address = await loop.sock_accept(listener)
            except OSError as error:
                log.error("gateway.deaf", found=error.strerror)
                await asyncio.sleep(1.0 if error.errno in NO_MORE else 0.0)
                continue
            client = (str(address[0]), int(address[1]))
            task = loop.create_task(self._open(taken, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _deaf(self, task: asyncio.Task[None]) -> None:
        """Who takes connections has ended: no gateway stays without."""
        self.should_exit = True

    async def _open(self, taken: socket.socket, client: Client) -> None:
        """Agree on TLS with who called; from then on the connection lives by itself."""
        task = asyncio.current_task()
        assert task is not None
        place = self._crowd.enter(client, time.monotonic(), task.cancel)
        new = partial(
            HttpConnection,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            place=place,
            crowd=self._crowd,
            ended=self._ended,
        )
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                new,
                taken,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_SECONDS,
                ssl_shutdown_timeout=CLOSING_SECONDS,
            )
        except BaseException as error:
            self._crowd.leave(place)
            if isinstance(error, ssl.SSLError):
                self._ended(_REASONS.get(error.reason or "", "tls"), None, client[0])
            elif isinstance(error, ConnectionAbortedError):
                self._ended("slow-tls", None, client[0])
            elif not isinstance(error, OSError):
                raise


def server(app: Any, tls: ssl.SSLContext, crowd: ConnectionLimiter, ended: OnEnded) -> Server:  # noqa: ANN401
    """A server of ``app``, any ASGI app, that is ready to be given its socket.

    Args:
        app: an ASGI app.
        tls: the context to listen with.
        crowd: the connections that it holds.
        ended: told why a connection was ended.
    """
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    config = uvicorn.Config(
        app,
        http="httptools",
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
    return Server(config, tls, crowd, ended)
