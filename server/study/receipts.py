"""The coordinator's receipts: signatures for the newest heads that each site has sent.

A receipt goes out with the next request, of any kind, and the site keeps it. If later the end of
the site's audit log is missing, or an older copy of its ledger is in use, the receipt proves it.
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


class CoordinatorReceipts:
    """What the coordinator has seen of each site, and signs for.

    Args:
        key: the coordinator's.
        known: the newest heads of a site that were signed for, in any study. It is asked
            each time: other studies of the same site may be running.
    """

    def __init__(
        self, key: SigningKey, known: Callable[[str], SeenHeads | None] = lambda _site: None
    ) -> None:
        self._key = key
        self._stored = known
        self._heads: dict[str, SeenHeads] = {}

    def note(self, reply: Reply) -> tuple[SeenHeads, bytes] | None:
        """Remember the heads of a verified reply; gives them with a signature where they are new.

        Heads that cannot follow the known ones are not signed, and the known ones are kept. The
        length of the site's audit log is not visible here, so of two heads with the same ledger
        the one that came last counts, even from a reply that the site had stored: the site
        compares each receipt with the longest log that it ever got one for.
        """
        heads = SeenHeads(reply.ledger, reply.seal)
        # A site that refuses because its ledger is too old must not get a receipt for that ledger.
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
        # Both: the store has what other studies have received, and this study may know more than
        # it has written.
        ours, stored = self._heads.get(site), self._stored(site)
        if ours is None or (stored and stored.ledger.length > ours.ledger.length):
            return stored  # another study has received newer heads
        return ours

    def _sign(self, site: str, heads: SeenHeads) -> bytes:
        return self._key.sign(receipt_bytes(site, heads.ledger, heads.seal))


def _follows(heads: SeenHeads, known: SeenHeads | None) -> bool:
    """Whether these heads can come after the known ones, and not the other way round."""
    if known is None:
        return True
    if heads.ledger == known.ledger:
        return heads.seal != known.seal
    return heads.ledger.length > known.ledger.length
