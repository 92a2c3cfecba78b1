"""Who calls: the checks that a request must pass before its body is read.

Flower's nodes sign the time and nothing else (ECDSA on P-384), so a copy of the same bytes would
pass for about five minutes. Each signature is therefore accepted once. It is recognised by its
first half ``r``: from a valid (r, s) anyone can compute a second valid signature (r, n - s).
A signature made before the gateway started is refused, because an earlier process may have
accepted it already.

The wall clock says whether a signature is recent, but an administrator may set that clock.
A monotonic clock says how long a signature is remembered one by one. After that, the time span in
which it was signed stays refused (:class:`TimeSpans`), so that setting the wall clock back does
not make an old signature valid again.
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

# Flower's own tolerances: what is recent here is recent for the SuperLink too.
MOST_AHEAD: Final = float(SYSTEM_TIME_TOLERANCE)
"""Seconds that a site's clock may be ahead of ours."""
MOST_BEHIND: Final = float(TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
"""Seconds that it may be behind, with the way of the request."""
# A signature is recent for MOST_BEHIND + MOST_AHEAD seconds. The rest is a margin that keeps a
# span of forgotten signatures from reaching into the times that sites sign now.
REMEMBERED_SECONDS: Final = MOST_BEHIND + 2 * MOST_AHEAD + 15.0
"""How long each signature is remembered one by one."""
# A connected site signs a request at least every 30 s: after a larger gap a new span begins, so
# that setting the clock does not make one span of all that lies between.
LARGEST_GAP: Final = 60.0
"""Seconds between two forgotten signatures of one span."""
# A bound on memory. Merging two spans refuses more times than before, never fewer.
MOST_SPANS: Final = 64
"""Spans that are kept apart; when there is one more, the two nearest are merged."""
HEADERS: Final = (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)

NOT_AUTHENTICATED: Final = frozenset({"unknown-key", "unsigned", "signature"})
"""Codes for a caller that has not proved to hold an admitted key."""


@dataclass(frozen=True)
class Admitted:
    """The site that a key belongs to.

    Attributes:
        name: of the site.
        node_id: its number at the SuperLink now.
        state: whether it may connect.
    """

    name: str
    node_id: int
    state: Literal["admitted", "suspended"]


class Admission(Protocol):
    """The coordinator's list of sites, read at every request."""

    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        """The site that a key belongs to; None if there is none."""


class Denied(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is refused.

    Args:
        status: of HTTP; 401 if the reason is who calls: a stock node ends itself at a 401.
        code: of the reason, for the caller and the log.
        site: the caller, where it is known.
        more: other fields of the answer.
    """

    def __init__(
        self, status: int, code: str, site: str | None = None, **more: str | float
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.site = site
        self.more = more


class TimeSpans:
    """Spans of time whose signatures were accepted and are no longer remembered one by one.

    Args:
        first: the first span, in seconds on the wall clock.
    """

    def __init__(self, first: tuple[float, float]) -> None:
        self._spans = [first]

    def __len__(self) -> int:
        """Number of spans."""
        return len(self._spans)

    def contain(self, signed: float) -> bool:
        """Whether a time is in one of the spans."""
        return any(low <= signed <= high for low, high in self._spans)

    def add(self, signed: float) -> None:
        """Add a time: it widens a span nearby, or begins a new one."""
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


class SeenSignatures:
    """Signatures that were accepted.

    Args:
        began: when the gateway started, seconds on the wall clock.
    """

    def __init__(self, began: float) -> None:
        self._seen: set[tuple[bytes, int]] = set()
        self._order: deque[tuple[float, float, tuple[bytes, int]]] = deque()
        self._forgotten = TimeSpans((began - REMEMBERED_SECONDS, began))

    def first(self, key: bytes, signature: bytes, signed: float, now: float) -> bool:
        """Whether a valid signature is used for the first time; it is remembered from now on.

        Args:
            key: that signed.
            signature: DER.
            signed: the time that was signed, seconds on the wall clock.
            now: seconds on a monotonic clock.
        """
        while self._order and self._order[0][0] <= now - REMEMBERED_SECONDS:
            _, when, mark = self._order.popleft()
            self._seen.discard(mark)
            self._forgotten.add(when)
        mark = (key, decode_dss_signature(signature)[0])  # r alone: s and n - s are both valid
        if mark in self._seen or self._forgotten.contain(signed):
            return False
        self._seen.add(mark)
        self._order.append((now, signed, mark))
        return True


class Authenticator:
    """Identifies callers by their headers.

    Args:
        admission: the coordinator's list of sites.
        wall: the time when the gateway started, with a zone.
        now: the same in seconds on a monotonic clock.
    """

    def __init__(self, admission: Admission, wall: datetime.datetime, now: float) -> None:
        self._admission = admission
        self._began = now
        self._signatures = SeenSignatures(wall.timestamp())

    def caller(
        self, headers: Mapping[str, str], wall: datetime.datetime, now: float
    ) -> tuple[Admitted, bytes]:
        """The site that signed a request, and its key.

        The cheap checks come first: a caller without an admitted key costs no elliptic-curve
        operation.

        Args:
            headers: of the request.
            wall: the time, with a zone.
            now: seconds on a monotonic clock.

        Raises:
            Denied: the caller may not connect.
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
        # TypeError: a time without a zone. OverflowError: a time at the end of the calendar.
        except (ValueError, TypeError, OverflowError):
            raise Denied(401, "unsigned", site.name) from None
        if not -MOST_AHEAD < behind < MOST_BEHIND:
            raise Denied(401, "clock", site.name, ahead=round(-behind, 1))
        if not verify_signature(_public_key(key), stamp.encode("ascii", "replace"), signature):
            raise Denied(401, "signature", site.name)
        # Signed before the gateway started. Only valid signatures are remembered, or else a
        # stranger could fill the memory.
        early = behind > now - self._began
        if early or not self._signatures.first(key, signature, signed.timestamp(), now):
            raise Denied(401, "replay", site.name)
        return site, key


def _credentials(headers: Mapping[str, str]) -> tuple[bytes, bytes, str]:
    try:
        key = b64decode(headers[HEADERS[0]], validate=True)
        signature = b64decode(headers[HEADERS[1]], validate=True)
        return key, signature, headers[HEADERS[2]]
    except (KeyError, binascii.Error, ValueError):
        raise Denied(401, "unsigned") from None


# Only admitted keys get here, so a stranger cannot fill the cache.
@lru_cache(maxsize=1024)
def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    return bytes_to_public_key(pem)
