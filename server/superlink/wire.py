"""Flower's HTTP clients for our SuperLink: loopback only, with its secret, and our errors."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

import common.wire.flower  # noqa: F401
from common.errors import LinkError
from server.superlink.control_auth import HEADER

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import ProtobufClient

if TYPE_CHECKING:
    from flwr.supercore.protobuf.client import (
        ProtobufCall,
        ProtobufClientInterceptor,
        ProtobufRequestContext,
    )

Client = TypeVar("Client", bound=ProtobufClient)
TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
LIMITS: Final = httpx.Limits(max_connections=32, keepalive_expiry=60.0)


class ControlSecret:
    """Adds the secret of :mod:`server.superlink.control_auth` to every request."""

    def __init__(self, value: str) -> None:
        self._value = value

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send the request with the header."""
        add_headers(context.request, {HEADER: self._value})
        return call_next(context)


def trust(ca: str) -> ssl.SSLContext:
    """TLS that trusts one authority and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    return context


def client(
    kind: type[Client],
    address: str,
    ca: str,
    control_secret: str,
    interceptors: Sequence[ProtobufClientInterceptor] = (),
) -> Client:
    """One of Flower's clients.

    Without its retries: they send SIGINT to their own process at a 401, and never end where
    nothing listens.

    Args:
        kind: which.
        address: of the SuperLink, ``host:port``.
        ca: certificate of its authority, PEM.
        control_secret: what :func:`server.superlink.control_auth.header_value` gave.
        interceptors: what else a request goes through.
    """
    version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
    made = kind(
        f"https://{address}", interceptors=[ControlSecret(control_secret), version, *interceptors]
    )
    made._client.close()  # noqa: SLF001 - it would ask a proxy for an address on loopback
    made._client = httpx.Client(  # noqa: SLF001
        verify=trust(ca), timeout=TIMEOUT, limits=LIMITS, trust_env=False
    )
    return made


@contextmanager
def translated(doing: str) -> Generator[None]:
    """Turn every error of the connection into one kind of error."""
    try:
        yield
    except httpx.HTTPStatusError as cause:
        told = FlowerError.from_json(cause.response.text)
        status = cause.response.status_code
        raise LinkError(
            f"the SuperLink refused {doing}",
            found=f"{status} {told.message}" if told else status,
            remedy="read the coordinator's log; restarting the coordinator continues every study",
        ) from cause
    except (httpx.HTTPError, ValueError, OSError) as cause:
        raise LinkError(
            f"the SuperLink was lost on an attempt {doing}",
            found=type(cause).__name__,
            remedy="nothing to do: the coordinator restarts it and continues every study",
        ) from cause
