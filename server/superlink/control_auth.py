"""Who on this machine may talk to the SuperLink: whoever can read a file of its owner's.

The SuperLink listens on loopback, where every local account reaches it, and without an
account plug-in of Flower's anybody may start runs and register nodes there. The guard stands
before the whole of it and lets through only what bears a secret header; Flower's own tokens
and signatures are checked behind it as ever. The secret is read from a file that only its
owner can read, and stands on no command line.
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

HEADER: Final = "consilium-guard"
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
            "the secret of the SuperLink cannot be read", where=path, found=cause.strerror
        ) from cause
    if others:
        raise CoordinatorError(
            "the secret of the SuperLink can be read by others",
            where=path,
            wanted="a file that only its owner can read",
            remedy=f"write 32 new random bytes to it, then chmod 600 {path}",
        )
    if len(secret) < _FEWEST_BYTES:
        raise CoordinatorError(
            "the secret of the SuperLink is too short",
            where=path,
            found=f"{len(secret)} bytes",
            wanted=f"at least {_FEWEST_BYTES} random bytes",
        )
    return secret


def header_value(secret: bytes) -> str:
    """What the guard wants to see in its header."""
    return _derive(secret, "guard").hex()


def superexec_secret(secret: bytes) -> bytes:
    """What Flower signs the taking of tasks with."""
    return _derive(secret, "superexec")


def _derive(secret: bytes, purpose: str) -> bytes:
    return hmac.digest(secret, f"consilium {purpose}".encode(), hashlib.sha256)


class ControlAuth:
    """An ASGI app that lets through to another only what bears the secret.

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
        shown = [value for name, value in scope["headers"] if name == HEADER.encode()]
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._wanted)
