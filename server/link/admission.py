"""Who calls: the checks that a request must pass before its body is looked at.

Flower's nodes sign the time and nothing else (ECDSA on P-384), so the same bytes sent again
would pass for about five minutes. Each signature is therefore accepted once. It is remembered
by its first half: from one valid signature anybody can make a second one, which differs in
the other half only. What was signed before the gateway began, it may have seen in its life
before, and does not take.
"""

from __future__ import annotations

import binascii
import datetime
from base64 import b64decode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

import common.flower  # noqa: F401

# isort: split
# Only after common.flower, which tells Flower to stay off the network.
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

MOST_AHEAD: Final = float(SYSTEM_TIME_TOLERANCE)
"""Seconds that a site's clock may be ahead of ours."""
MOST_BEHIND: Final = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
REMEMBERED_SECONDS: Final = 310.0
"""As long as Flower would take a signature: the sum of the two, so never less."""
HEADERS: Final = (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)

STRANGE: Final = frozenset({"unknown-key", "unsigned", "signature"})
"""Codes of who has not shown that they hold an admitted key."""


@dataclass(frozen=True)
class Admitted:
    """What the coordinator knows of the owner of a key.

    Attributes:
        name: the site.
        node_id: what the SuperLink calls it now.
        state: whether it may come in.
    """

    name: str
    node_id: int
    state: Literal["admitted", "suspended"]


class Admission(Protocol):
    """The coordinator's list of sites; asked at every request."""

    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        """Whose key this is; None where nobody's."""


class Denied(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is not let through.

    Args:
        status: of HTTP. What concerns who calls is 401, at which a stock node ends.
        code: of the reason, for the caller and the log.
        site: who calls, where that is known.
        more: what else the caller is told.
    """

    def __init__(
        self, status: int, code: str, site: str | None = None, **more: str | float
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.site = site
        self.more = more


class Replays:
    """Signatures of the last minutes."""

    def __init__(self) -> None:
        self._seen: set[tuple[bytes, int]] = set()
        self._order: deque[tuple[float, tuple[bytes, int]]] = deque()

    def first(self, key: bytes, signature: bytes, now: float) -> bool:
        """Whether a valid signature of this key has not been seen before; it has from now on.

        Args:
            key: whose.
            signature: DER.
            now: seconds on a clock that never goes back.
        """
        while self._order and self._order[0][0] <= now - REMEMBERED_SECONDS:
            self._seen.discard(self._order.popleft()[1])
        mark = (key, decode_dss_signature(signature)[0])
        if mark in self._seen:
            return False
        self._seen.add(mark)
        self._order.append((now, mark))
        return True


class Doorkeeper:
    """Knows callers by their headers.

    Args:
        admission: the coordinator's list of sites.
        began: when the gateway began, seconds on a clock that never goes back.
    """

    def __init__(self, admission: Admission, began: float) -> None:
        self._admission = admission
        self._began = began
        self._replays = Replays()

    def caller(
        self, headers: Mapping[str, str], wall: datetime.datetime, now: float
    ) -> tuple[Admitted, bytes]:
        """Who signed a request, and the key they signed it with.

        Args:
            headers: of the request.
            wall: the time, with a zone.
            now: seconds on a clock that never goes back.

        Raises:
            Denied: nobody that may come in.
        """
        key, signature, stamp = _credentials(headers)
        site = self._admission.lookup(key)
        if site is None:
            raise Denied(401, "unknown-key")
        if site.state != "admitted":
            raise Denied(401, "suspended", site.name)
        try:
            behind = (wall - datetime.datetime.fromisoformat(stamp)).total_seconds()
        except (ValueError, TypeError):
            raise Denied(401, "unsigned", site.name) from None
        if not -MOST_AHEAD < behind < MOST_BEHIND:
            raise Denied(401, "clock", site.name, ahead=round(-behind, 1))
        if not verify_signature(_public_key(key), stamp.encode("ascii", "replace"), signature):
            raise Denied(401, "signature", site.name)
        if behind > now - self._began or not self._replays.first(key, signature, now):
            raise Denied(401, "replay", site.name)
        return site, key


def _credentials(headers: Mapping[str, str]) -> tuple[bytes, bytes, str]:
    try:
        key = b64decode(headers[HEADERS[0]], validate=True)
        signature = b64decode(headers[HEADERS[1]], validate=True)
        return key, signature, headers[HEADERS[2]]
    except (KeyError, binascii.Error, ValueError):
        raise Denied(401, "unsigned") from None


@lru_cache(maxsize=1024)
def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    return bytes_to_public_key(pem)
