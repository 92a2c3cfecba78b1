"""The coordinator's receipts: signatures for the newest that each site is known to have sent.

A receipt goes out with the next request, whatever it is about, and the site keeps it: should
the end of its audit log, or an older copy of its ledger, come to stand in the place of what
was sent, the receipt says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.errors import RefusalCode
from common.wire.messages import LedgerHead, Reply, Request, receipt_bytes
from common.wire.signing import SigningKey


@dataclass(frozen=True)
class SeenHeads:
    """How far a site's ledger had come, and its audit log: that part the site alone can read."""

    ledger: LedgerHead
    seal: str


def _nothing(_site: str) -> SeenHeads | None:
    """What is known of a site where no store remembers."""
    return None


class CoordinatorReceipts:
    """What the coordinator has seen of each site, and signs for.

    Args:
        key: the coordinator's.
        known: the newest heads of a site that were signed for, in whatever study. It is asked
            each time: other studies of the same site may be under way.
    """

    def __init__(
        self, key: SigningKey, known: Callable[[str], SeenHeads | None] = _nothing
    ) -> None:
        self._key = key
        self._stored = known
        self._heads: dict[str, SeenHeads] = {}

    def note(self, reply: Reply) -> tuple[SeenHeads, bytes] | None:
        """Remember the heads of a verified reply; gives them with a signature where they are new.

        Heads that cannot follow those that are known are not signed for, nor are the known ones
        forgotten. How long the site's log is cannot be seen, so of two heads with one ledger the
        one that came last counts, be it of a reply that the site had stored: the site holds what
        it is handed against the longest that it was ever handed.
        """
        heads = SeenHeads(reply.ledger, reply.seal)
        if reply.code == RefusalCode.LEDGER_BEHIND or not _follows(heads, self._known(reply.site)):
            return None
        self._heads[reply.site] = heads
        return heads, self._sign(reply.site, heads)

    def attach(self, site: str, request: Request) -> Request:
        """The request with the newest receipt for its site, if there is one."""
        heads = self._known(site)
        if heads is None:
            return request
        return request.with_receipt(heads.ledger, heads.seal, self._sign(site, heads))

    def _known(self, site: str) -> SeenHeads | None:
        ours, stored = self._heads.get(site), self._stored(site)
        if ours is None or (stored and stored.ledger.length > ours.ledger.length):
            return stored  # another study has heard more
        return ours

    def _sign(self, site: str, heads: SeenHeads) -> bytes:
        return self._key.sign(receipt_bytes(site, heads.ledger, heads.seal))


def _follows(heads: SeenHeads, known: SeenHeads | None) -> bool:
    """Whether a site can have come from the known heads to these, and not the other way."""
    if known is None:
        return True
    if heads.ledger == known.ledger:
        return heads.seal != known.seal
    return heads.ledger.length > known.ledger.length
