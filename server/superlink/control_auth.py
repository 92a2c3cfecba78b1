"""Which local processes may talk to the SuperLink: those that can read the owner's secret file.

The SuperLink listens on loopback, where every local account reaches it, and without one of
Flower's account plug-ins anyone there may start runs and register nodes. So every request must
carry a secret in a header; Flower checks its own tokens and signatures after that. The secret
is read from a file that only its owner can read, and is on no command line, where every local
account could read it.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from common.errors import CoordinatorError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HEADER: Final = "consilium-control-auth"
HEALTH: Final = "/health"
_FEWEST_BYTES: Final = 32
log = structlog.get_logger()


def read_secret(path: Path) -> bytes:
    """The secret that a coordinator's own processes share.

    Raises:
        CoordinatorError: it cannot be read, others can read it, or it is too short.
    """
    try:
        others = path.stat().st_mode & 0o077
        secret = path.read_bytes()
    except OSError as cause:
        raise CoordinatorError(
            "the SuperLink's secret cannot be read",
            where=path,
            found=cause.strerror,
            remedy="make sure that the file exists and that the coordinator's user may read it",
        ) from cause
    if others:
        raise CoordinatorError(
            "other accounts can read the SuperLink's secret",
            where=path,
            wanted="a file that only its owner can read",
            remedy=f"write 32 new random bytes to the file, then run: chmod 600 {path}",
        )
    if len(secret) < _FEWEST_BYTES:
        raise CoordinatorError(
            "the SuperLink's secret is too short",
            where=path,
            found=f"{len(secret)} bytes",
            wanted=f"at least {_FEWEST_BYTES} random bytes",
            remedy=f"write {_FEWEST_BYTES} new random bytes to the file",
        )
    return secret


def header_value(secret: bytes) -> str:
    """The value that every request must carry in :data:`HEADER`."""
    return _derive(secret, "control-auth").hex()


def superexec_secret(secret: bytes) -> bytes:
    """The key that Flower signs requests for tasks with."""
    return _derive(secret, "superexec")


def _derive(secret: bytes, purpose: str) -> bytes:
    # A key for each use: a header that leaks must not let its finder sign requests for tasks.
    return hmac.digest(secret, f"consilium {purpose}".encode(), hashlib.sha256)


class ControlAuth:
    """An ASGI app that passes on to another only requests that carry the secret.

    Args:
        app: the SuperLink.
        secret: what :func:`read_secret` gave.
    """

    def __init__(self, app: ASGIApp, secret: bytes) -> None:
        self._app = app
        self._wanted = header_value(secret).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse, one request."""
        if scope["type"] == "lifespan" or self._passes(scope):
            await self._app(scope, receive, send)
            return
        log.warning("superlink.refused", reason="no-secret", path=str(scope.get("path"))[:80])
        if scope["type"] != "http":
            return
        body = b'{"code": "no-secret"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _passes(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        if scope["method"] in ("GET", "HEAD") and scope["path"] == HEALTH:
            return True
        # Exactly one: of two headers, another reader may take the other one.
        shown = [value for name, value in scope["headers"] if name == HEADER.encode()]
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._wanted)
