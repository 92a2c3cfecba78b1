"""The public socket: accepting connections, TLS, and a deadline for each part of a request.

Everything that a caller can delay has a deadline: the TLS handshake, the first accepted request
(:mod:`server.gateway.connection_limiter`), the headers and the body of each request, and reading
the answer. A connection that is late is closed and its reason reported. A failed TLS handshake
never becomes a request, so it is reported here too: a caller that speaks plain HTTP, or one that
trusts another certificate authority.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
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

# Flower's headers take about a thousand bytes; the parser itself has no limit.
HEADER_BYTES: Final = 2**16
"""Bytes of a request without its body: request line, headers, chunk sizes, trailers."""
TLS_SECONDS: Final = 20.0
"""For the TLS handshake."""
HEADER_SECONDS: Final = 20.0
"""For the headers of a request, from their first byte."""
# 10 s more than the gateway waits for the body of an admitted site: the site is then answered
# with 408 "slow-body" and not just cut off.
BODY_SECONDS: Final = 190.0
"""For the body of a request."""
ANSWER_SECONDS: Final = 180.0
"""For reading an answer."""
CLOSING_SECONDS: Final = 20.0
"""For the end of TLS, and for data that is not sent yet."""
# Longer than a site keeps an idle connection: a server that closes first could close it just as
# the site sends its next request.
KEEP_ALIVE_SECONDS: Final = 75
"""Between two requests on one connection."""
NO_MORE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The system's error numbers for "no room for another connection"."""
_REASONS: Final = {
    "HTTP_REQUEST": "plain-http",
    "WRONG_VERSION_NUMBER": "plain-http",
    "HTTPS_PROXY_REQUEST": "plain-http",
    "TLSV1_ALERT_UNKNOWN_CA": "other-authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "other-authority",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "other-authority",
}
OnEnded = Callable[[str, str | None, str], None]
"""Called with the reason, the site where it is known, and the address."""
log = structlog.get_logger()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection with deadlines, a header limit, and one request at a time.

    Args:
        arguments: uvicorn's.
        held: its entry in the limiter.
        limiter: of all connections.
        ended: called when this one is cut off.
        options: uvicorn's.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - uvicorn's
        held: HeldConnection,
        limiter: ConnectionLimiter,
        ended: OnEnded,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*arguments, **options)
        self._held, self._limiter, self._ended = held, limiter, ended
        self._deadlines: dict[str, float] = {}
        self._head_bytes = 0
        self._between_requests = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The TLS handshake is done."""
        super().connection_made(transport)
        self._held.cut = transport.abort

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._deadlines.clear()
        self._limiter.remove(self._held)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes outside the body, and start the deadline of a request that begins."""
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEADER_BYTES:
            self._end("size")
        elif self._between_requests and self._head_bytes:  # not a request yet: an empty line
            self._start("slow-headers", HEADER_SECONDS)

    def on_message_begin(self) -> None:
        """A request begins; one that comes before the last answer is refused."""
        # uvicorn would keep pipelined requests in memory until their turn comes.
        if self.cycle is not None and not self.cycle.response_complete:
            self._end("pipelined")
        self._between_requests = False
        self._start("slow-headers", HEADER_SECONDS)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """All headers have arrived."""
        self._stop("slow-headers")
        if self.transport.is_closing():
            return
        self._start("slow-body", BODY_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body has arrived."""
        self._head_bytes -= len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        self._between_requests, self._head_bytes = True, 0
        self._stop("slow-body")
        if self.cycle is not None:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The caller reads more slowly than we send."""
        self._start("slow-answer", ANSWER_SECONDS)
        super().pause_writing()

    def resume_writing(self) -> None:
        """The caller has read what was waiting to be sent."""
        if self.cycle is None or self.cycle.response_complete:
            self._stop("slow-answer")
        super().resume_writing()

    def on_response_complete(self) -> None:
        """The whole answer is in the send buffer."""
        if not self.flow.write_paused:
            self._stop("slow-answer")
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """The data is not HTTP."""
        self._report("no-http")
        super().send_400_response(msg)

    def check_deadlines(self, now: float) -> None:
        """End the connection if something takes too long."""
        late = [reason for reason, deadline in self._deadlines.items() if deadline < now]
        if late:
            self._end(late[0])

    def _start(self, reason: str, seconds: float) -> None:
        # setdefault: a byte now and then must not move the deadline (slowloris).
        self._deadlines.setdefault(reason, time.monotonic() + seconds)

    def _stop(self, reason: str) -> None:
        self._deadlines.pop(reason, None)

    def _end(self, reason: str) -> None:
        self._deadlines.clear()
        if not self.transport.is_closing():
            self._report(reason)
        self.transport.abort()

    def _report(self, reason: str) -> None:
        self._ended(reason, self._held.site, self._held.client[0])


class Server(uvicorn.Server):
    """uvicorn's server, but it accepts connections itself and handles no signals.

    Args:
        config: uvicorn's.
        tls: the context to listen with.
        limiter: the connections that it holds.
        ended: called when a connection is cut off.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        tls: ssl.SSLContext,
        limiter: ConnectionLimiter,
        ended: OnEnded,
    ) -> None:
        super().__init__(config)
        self._tls, self._limiter, self._ended = tls, limiter, ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on these sockets."""
        await self.lifespan.startup()
        self.servers = []
        for listener in sockets or []:
            task = asyncio.create_task(self._accept(listener))
            task.add_done_callback(self._accepting_ended)
            self._accepting.append(task)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and end those that are held.

        Raises:
            Exception: the reason why accepting had already ended.
        """
        for task in (*self._accepting, *self._tasks):
            task.cancel()
        errors = logging.getLogger("uvicorn.error")
        # After a second uvicorn cancels the requests that are left, with a traceback for each.
        errors.disabled = True
        try:
            await super().shutdown(sockets)
            if left := list(self.server_state.tasks):
                log.info("gateway.requests-ended", count=len(left))
                await asyncio.wait(left, timeout=1.0)
        finally:
            errors.disabled = False
        for task in self._accepting:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def on_tick(self, counter: int) -> bool:
        """Check every deadline; uvicorn calls this ten times a second."""
        now = time.monotonic()
        self._limiter.end_late_strangers(now)
        for connection in list(self.server_state.connections):
            cast(HttpConnection, connection).check_deadlines(now)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: the daemon handles signals."""
        yield

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError as error:
                log.error("gateway.deaf", found=error.strerror)
                # Without the pause, a lack of file descriptors would make this loop use a core.
                await asyncio.sleep(1.0 if error.errno in NO_MORE else 0.0)
                continue
            client = (str(address[0]), int(address[1]))
            task = loop.create_task(self._open(accepted, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _accepting_ended(self, task: asyncio.Task[None]) -> None:
        """Accepting has ended, so the gateway must end too: the daemon must not run without it."""
        self.should_exit = True

    async def _open(self, accepted: socket.socket, client: Client) -> None:
        """Do the TLS handshake; then the connection is on its own."""
        task = asyncio.current_task()
        assert task is not None
        held = self._limiter.add(client, time.monotonic(), task.cancel)
        new = partial(
            HttpConnection,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            held=held,
            limiter=self._limiter,
            ended=self._ended,
        )
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                new,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=TLS_SECONDS,
                ssl_shutdown_timeout=CLOSING_SECONDS,
            )
        # BaseException: a connection is cut by cancelling this task.
        except BaseException as error:
            self._limiter.remove(held)
            if isinstance(error, ssl.SSLError):
                self._ended(_REASONS.get(error.reason or "", "tls"), None, client[0])
            elif isinstance(error, ConnectionAbortedError):
                self._ended("slow-tls", None, client[0])
            elif not isinstance(error, OSError):
                raise


def new_server(app: Any, tls: ssl.SSLContext, limiter: ConnectionLimiter, ended: OnEnded) -> Server:  # noqa: ANN401
    """A server of an ASGI app, to be given its socket.

    Args:
        app: an ASGI app.
        tls: the context to listen with.
        limiter: the connections that it holds.
        ended: called when a connection is cut off.
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
        proxy_headers=False,  # else a caller could choose the address that limits it
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # The gateway has answered the held polls before; all else takes less than this.
        timeout_graceful_shutdown=1,
    )
    config.load()
    return Server(config, tls, limiter, ended)
