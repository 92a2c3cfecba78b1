"""Every answer that a site reads from its coordinator ends: in bytes, and in time.

The limits are below HTTP, where bytes come in, so that they hold for headers, for answers that only
announce another one, for trailers and for anything else in HTTP. What exceeds them breaks the line,
like any failure of it. The site asks for answers that are not compressed, and refuses a compressed
one before it is read: a few of its bytes may become gigabytes.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore
import httpx

LARGEST_ANSWER: Final = 7 * 2**20
"""Bytes of an answer with all that belongs to it; Flower cuts arrays at 5 MiB."""
ANSWER_SECONDS: Final = 180.0
"""How long an answer may take once all of a request is sent; as long as the gateway allows."""
REQUEST_SECONDS: Final = 180.0
"""How long the other side may take to take a request."""
PIECE: Final = 2**16
PLAIN: Final = {"accept-encoding": "identity"}


class Endless(httpcore.RemoteProtocolError):
    """An answer is longer, or takes longer, than any of this protocol does."""


class _Stream(httpcore.NetworkStream):
    """A connection on which one request and one answer follow each other."""

    def __init__(self, inner: httpcore.NetworkStream, clock: Callable[[], float]) -> None:
        self._inner, self._clock = inner, clock
        self._asking = False
        self._until, self._room = 0.0, 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._asking:
            # The first read after a request begins its answer: headers and trailers count too.
            self._asking, self._room = False, LARGEST_ANSWER
            self._until = self._clock() + ANSWER_SECONDS
        data = self._inner.read(max_bytes, self._left(timeout))
        self._room -= len(data)
        if self._room < 0:
            raise Endless("an answer that is too long")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self._asking:
            self._asking, self._until = True, self._clock() + REQUEST_SECONDS
        # In pieces: a peer that takes a byte now and then meets the deadline between two of them.
        for start in range(0, len(buffer), PIECE):
            self._inner.write(buffer[start : start + PIECE], self._left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secured = self._inner.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(secured, self._clock)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's
        return self._inner.get_extra_info(info)

    def _left(self, timeout: float | None) -> float:
        """Seconds for one call, which is given no more than is left of them all."""
        left = self._until - self._clock()
        if left <= 0:
            raise Endless("an answer or a request that takes too long")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore.SyncBackend):
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        made = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(made, self._clock)


def client(
    tls: ssl.SSLContext,
    timeout: httpx.Timeout,
    limits: httpx.Limits,
    options: list[httpcore.SOCKET_OPTION],
    clock: Callable[[], float] = time.monotonic,
) -> httpx.Client:
    """An HTTP client whose answers all end, which asks no proxy and follows no other address.

    Args:
        tls: whom to believe.
        timeout: for each single step.
        limits: on connections.
        options: of each socket.
        clock: seconds, which never go back.
    """
    transport = httpx.HTTPTransport(verify=tls, trust_env=False)
    # Its own pool has no bounds, and is never used.
    transport.close()
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001 - httpx passes no backend on
        ssl_context=tls,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        socket_options=options,
        network_backend=_Backend(clock),
    )
    # trust_env=False: a proxy of the environment is not whom the administrator joined.
    return httpx.Client(
        timeout=timeout,
        trust_env=False,
        headers=PLAIN,
        transport=transport,
        event_hooks={"response": [_refuse_compressed]},
    )


def _refuse_compressed(answer: httpx.Response) -> None:
    """Called when an answer's headers are here, and nothing of what follows was read."""
    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        answer.close()
        raise httpx.DecodingError("an answer that was compressed", request=answer.request)
