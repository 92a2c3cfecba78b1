"""The coordinator's receipts: signatures for the newest that each site is known to have sent.

A receipt goes out with the next request, whatever it is about, and the site keeps it: should
the end of its audit log, or an older copy of its ledger, come to stand in the place of what
was sent, the receipt says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.errors import RefusalCode
from common.messages import AuditHead, LedgerHead, Reply, Request, receipt_bytes
from common.signing import SigningKey


@dataclass(frozen=True)
class Heads:
    """How far a site's ledger and its audit log had come."""

    ledger: LedgerHead
    audit: AuditHead


def _nothing(_site: str) -> Heads | None:
    """What is known of a site where no store remembers."""
    return None


class Receipts:
    """What the coordinator has seen of each site, and signs for.

    Args:
        key: the coordinator's.
        known: the newest heads of a site that were signed for, in whatever study. It is asked
            each time: other studies of the same site may be under way.
    """

    def __init__(self, key: SigningKey, known: Callable[[str], Heads | None] = _nothing) -> None:
        self._key = key
        self._stored = known
        self._heads: dict[str, Heads] = {}

    def note(self, reply: Reply) -> tuple[Heads, bytes] | None:
        """Remember the heads of a verified reply; gives them with a signature where they are new.

        A reply that a site had stored is older than what it sent since, and changes nothing.
        Heads that cannot follow those that are known are not signed for, nor are the known ones
        forgotten: an old backup's log becomes longer with each refusal, its ledger does not.
        """
        heads = Heads(reply.ledger, reply.audit)
        if reply.code == RefusalCode.LEDGER_BEHIND or not _follows(heads, self._known(reply.site)):
            return None
        self._heads[reply.site] = heads
        return heads, self._sign(reply.site, heads)

    def attach(self, site: str, request: Request) -> Request:
        """The request with the newest receipt for its site, if there is one."""
        heads = self._known(site)
        if heads is None:
            return request
        return request.with_receipt(heads.ledger, heads.audit, self._sign(site, heads))

    def _known(self, site: str) -> Heads | None:
        ours, stored = self._heads.get(site), self._stored(site)
        return stored if ours is None or (stored and _follows(stored, ours)) else ours

    def _sign(self, site: str, heads: Heads) -> bytes:
        return self._key.sign(receipt_bytes(site, heads.ledger, heads.audit))


def _follows(heads: Heads, known: Heads | None) -> bool:
    """Whether a site can have come from the known heads to these, and not the other way."""
    if known is None:
        return True
    grown = heads.ledger.length > known.ledger.length or heads.ledger == known.ledger
    return grown and heads.audit.length > known.audit.length
