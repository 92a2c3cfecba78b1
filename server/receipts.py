"""The coordinator's receipts: signatures for the newest that each site is known to have sent.

A receipt goes out with the next request, whatever it is about, and the site keeps it: should
the end of its audit log, or an older copy of its ledger, come to stand in the place of what
was sent, the receipt says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.messages import AuditHead, LedgerHead, Reply, Request, receipt_bytes
from common.signing import SigningKey


@dataclass(frozen=True)
class Heads:
    """How far a site's ledger and its audit log had come."""

    ledger: LedgerHead
    audit: AuditHead


class Receipts:
    """What the coordinator has seen of each site, and signs for.

    Args:
        key: the coordinator's.
        known: the heads that were signed for before, by site.
    """

    def __init__(self, key: SigningKey, known: Mapping[str, Heads] | None = None) -> None:
        self._key = key
        self._heads = dict(known or {})

    def note(self, reply: Reply) -> tuple[Heads, bytes] | None:
        """Remember the heads of a verified reply; gives them with a signature where they are new.

        A reply that a site had stored is older than what it sent since, and changes nothing.
        The audit log grows with every message, so its length tells which is newer.
        """
        known = self._heads.get(reply.site)
        if known is not None and reply.audit.length <= known.audit.length:
            return None
        heads = self._heads[reply.site] = Heads(reply.ledger, reply.audit)
        return heads, self._sign(reply.site, heads)

    def attach(self, site: str, request: Request) -> Request:
        """The request with the newest receipt for its site, if there is one."""
        heads = self._heads.get(site)
        if heads is None:
            return request
        return request.with_receipt(heads.ledger, heads.audit, self._sign(site, heads))

    def _sign(self, site: str, heads: Heads) -> bytes:
        return self._key.sign(receipt_bytes(site, heads.ledger, heads.audit))
