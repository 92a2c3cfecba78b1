"""Who calls: the checks that a request must pass before its body is looked at.

Flower's nodes sign the time and nothing else (ECDSA on P-384), so the same bytes sent again
would pass for about five minutes. Each signature is therefore accepted once. It is remembered
by its first half: from one valid signature anybody can make a second one, which differs in
the other half only. What was signed before the gateway began, it may have seen in its life
before, and does not take.

Whether a signature is of now is asked of the wall clock, which may be set; how long one is
remembered, of a clock that never is. What was taken and is forgotten stays known by the span of
time that it was signed in (:class:`Spans`), so that no step of the wall clock brings it back.
"""

from __future__ import annotations

import binascii
import datetime
from base64 import b64decode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

import common.wire.flower  # noqa: F401

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

MOST_AHEAD: Final = float(SYSTEM_TIME_TOLERANCE)
"""Seconds that a site's clock may be ahead of ours."""
MOST_BEHIND: Final = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
REMEMBERED_SECONDS: Final = MOST_BEHIND + 2 * MOST_AHEAD + 15.0
"""How long each signature is known by itself: longer than between the first and the last moment
at which one is of now, so that a span of forgotten ones ends before what any site signs now."""
LARGEST_GAP: Final = 60.0
"""Seconds between two forgotten signatures that one span still holds."""
MOST_SPANS: Final = 64
"""Spans that are told apart; each further step of the clock has the two nearest made one."""
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


class Spans:
    """Times that something was signed at which was taken once, and is forgotten by itself.

    Args:
        first: the first such span, in seconds on the wall clock.
    """

    def __init__(self, first: tuple[float, float]) -> None:
        self._spans = [first]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._spans)

    def hold(self, signed: float) -> bool:
        """Whether a time is in one of them."""
        return any(low <= signed <= high for low, high in self._spans)

    def add(self, signed: float) -> None:
        """Take in a time, by widening the span that is near it or by beginning another."""
        for number, (low, high) in enumerate(self._spans):
            if low - LARGEST_GAP <= signed <= high + LARGEST_GAP:
                self._spans[number] = min(low, signed), max(high, signed)
                return
        self._spans = sorted([*self._spans, (signed, signed)])
        if len(self._spans) > MOST_SPANS:
            gaps = [after[0] - before[1] for before, after in pairwise(self._spans)]
            near = gaps.index(min(gaps))
            both = self._spans[near : near + 2]
            widest = min(low for low, _ in both), max(high for _, high in both)
            self._spans[near : near + 2] = [widest]


class Replays:
    """Signatures that were taken.

    Args:
        began: when the gateway began, seconds on the wall clock.
    """

    def __init__(self, began: float) -> None:
        self._seen: set[tuple[bytes, int]] = set()
        self._order: deque[tuple[float, float, tuple[bytes, int]]] = deque()
        self._forgotten = Spans((began - REMEMBERED_SECONDS, began))

    def first(self, key: bytes, signature: bytes, signed: float, now: float) -> bool:
        """Whether a valid signature of this key has not been seen before; it has from now on.

        Args:
            key: whose.
            signature: DER.
            signed: the time that it is of, seconds on the wall clock.
            now: seconds on a clock that never goes back.
        """
        while self._order and self._order[0][0] <= now - REMEMBERED_SECONDS:
            _, when, mark = self._order.popleft()
            self._seen.discard(mark)
            self._forgotten.add(when)
        mark = (key, decode_dss_signature(signature)[0])
        if mark in self._seen or self._forgotten.hold(signed):
            return False
        self._seen.add(mark)
        self._order.append((now, signed, mark))
        return True


class Authenticator:
    """Knows callers by their headers.

    Args:
        admission: the coordinator's list of sites.
        wall: the time at which the gateway began, with a zone.
        now: the same in seconds on a clock that never goes back.
    """

    def __init__(self, admission: Admission, wall: datetime.datetime, now: float) -> None:
        self._admission = admission
        self._began = now
        self._replays = Replays(wall.timestamp())

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
            signed = datetime.datetime.fromisoformat(stamp)
            behind = (wall - signed).total_seconds()
        except (ValueError, TypeError, OverflowError):
            raise Denied(401, "unsigned", site.name) from None
        if not -MOST_AHEAD < behind < MOST_BEHIND:
            raise Denied(401, "clock", site.name, ahead=round(-behind, 1))
        if not verify_signature(_public_key(key), stamp.encode("ascii", "replace"), signature):
            raise Denied(401, "signature", site.name)
        early = behind > now - self._began  # signed before the gateway began, by today's clock
        if early or not self._replays.first(key, signature, signed.timestamp(), now):
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
