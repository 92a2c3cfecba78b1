"""The coordinator's receipts: its signature that a site has sent it these two heads.

A receipt comes back beside a request. It is kept in ``receipts.jsonl``, and it is held against
the ledger and the audit log at hand before anything else is done, as is the longest that was
ever kept: what either speaks of and is not here means that an old state folder was brought
back. Charges are lost then that must not be spent again, so the site refuses every request, of
new studies too, until the newest state folder is back. What is kept lets a log whose tail was
cut be found out later, without anybody's help (:mod:`client.inspection`).

A site that has not joined a coordinator knows no key to verify a receipt with, and keeps none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from client.audit import AuditLog
from client.ledger import LOST, Ledger
from common.documents import read_json
from common.enrolment import COORDINATOR_CARD, read_coordinator_card
from common.errors import Refusal, RefusalCode
from common.files import canonical_json
from common.messages import AuditHead, LedgerHead, Request, receipt_bytes
from common.signing import verify

FILE: Final = "receipts.jsonl"


@dataclass(frozen=True)
class Receipt:
    """One receipt as it is kept.

    Attributes:
        key: the coordinator's Ed25519 key, 64 hexadecimal digits.
        ledger: the ledger's head that it speaks of.
        audit: the audit log's.
        signature: over :func:`common.messages.receipt_bytes`.
    """

    key: str
    ledger: LedgerHead
    audit: AuditHead
    signature: bytes = field(repr=False)

    def holds(self, site: str) -> bool:
        """Whether its signature is the coordinator's, for this site."""
        return verify(self.key, receipt_bytes(site, self.ledger, self.audit), self.signature)

    @property
    def line(self) -> bytes:
        """How it is written."""
        value = {
            "key": self.key,
            "ledger": [self.ledger.length, self.ledger.hash],
            "audit": [self.audit.length, self.audit.hash],
            "signature": self.signature.hex(),
        }
        return canonical_json(value) + b"\n"


class Receipts:
    """The receipts of one site.

    Args:
        state: the state folder.
        site: the site's name.
        ledger: what receipts are held against.
        audit: likewise.
    """

    def __init__(self, state: Path, site: str, ledger: Ledger, audit: AuditLog) -> None:
        self._path, self._card, self._site = state / FILE, state / COORDINATOR_CARD, site
        self._ledger, self._audit = ledger, audit
        self._key, self._joined = "", 0
        self._newest: Receipt | None = None
        self._longest: tuple[Receipt, ...] | None = None

    def take(self, request: Request) -> None:
        """Keep a request's receipt; hold it, and the longest that are kept, against what is here.

        Raises:
            Refusal: ``malformed`` for one that does not verify, ``ledger-behind`` where one
                speaks of what is not here.
        """
        for each in (*self._brought(request), *self._longest_kept()):
            self._require_here(each)

    def _brought(self, request: Request) -> tuple[Receipt, ...]:
        """The receipt that comes with a request, if one does; it is kept."""
        key = self._coordinator()
        if not key or not request.receipt:
            _require_nothing_said(request)
            return ()
        receipt = Receipt(key, request.receipt_ledger, request.receipt_audit, request.receipt)
        if receipt != self._newest:
            if not receipt.holds(self._site):
                raise Refusal(RefusalCode.MALFORMED, "a receipt that the coordinator did not sign")
            self._keep(receipt)
            self._newest = receipt
        return (receipt,)

    def _coordinator(self) -> str:
        """The key of the coordinator that the site has joined; empty before that.

        Raises:
            SiteError: its card cannot be read.
        """
        try:
            written = self._card.stat().st_mtime_ns
        except FileNotFoundError:
            return ""
        if written != self._joined:
            self._key = read_coordinator_card(self._card).signing_key
            self._joined = written
        return self._key

    def _longest_kept(self) -> tuple[Receipt, ...]:
        """For the longest ledger and for the longest log, of whichever coordinator.

        The site has verified each before it kept it. So an old copy of ledger and log is found
        out from what lies beside it, whatever the coordinator has come to believe meanwhile.
        """
        if self._longest is None:
            kept = read_receipts(self._path.parent)
            self._longest = _longest(self._site, [each for _, each in kept if each])
        return self._longest

    def _require_here(self, receipt: Receipt) -> None:
        if (
            self._ledger.hash_at(receipt.ledger.length) != receipt.ledger.hash
            or self._audit.hash_at(receipt.audit.length) != receipt.audit.hash
        ):
            here = f"{self._ledger.head().length} charges, {self._audit.head.length} lines"
            seen = f"{receipt.ledger.length} charges, {receipt.audit.length} lines"
            raise Refusal(
                RefusalCode.LEDGER_BEHIND,
                "ledger or audit log are not those that this site has sent from",
                found=here,
                wanted=f"{seen}, as the coordinator has signed",
                remedy=LOST,
            )

    def _keep(self, receipt: Receipt) -> None:
        """Add a line; not waited for: the coordinator signs for the same and more next time."""
        self._longest = _longest(self._site, [*self._longest_kept(), receipt])
        line = receipt.line
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, b"\n" + line if torn else line)
        finally:
            os.close(file)


def read_receipts(state: Path) -> list[tuple[int, Receipt | None]]:
    """The kept receipts with their lines' numbers; None for a line that is none.

    What a crash left half written, which lacks its last brace, is passed over.
    """
    path = state / FILE
    if not path.exists():
        return []
    lines = enumerate(path.read_bytes().split(b"\n"), start=1)
    return [(number, _read(line)) for number, line in lines if line.endswith(b"}")]


def _longest(site: str, receipts: Sequence[Receipt]) -> tuple[Receipt, ...]:
    """Of those that hold, the one for the longest ledger and the one for the longest log."""
    by_ledger = sorted(receipts, key=lambda each: (each.ledger.length, each.audit.length))
    by_audit = sorted(receipts, key=lambda each: (each.audit.length, each.ledger.length))
    found = (
        next((each for each in reversed(order) if each.holds(site)), None)
        for order in (by_ledger, by_audit)
    )
    return tuple(dict.fromkeys(each for each in found if each))


def _read(line: bytes) -> Receipt | None:
    try:
        found = read_json(line)
        ledger, audit = LedgerHead(*found["ledger"]), AuditHead(*found["audit"])
        receipt = Receipt(found["key"], ledger, audit, bytes.fromhex(found["signature"]))
        well_formed = receipt.line == line + b"\n"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return receipt if well_formed else None


def _require_nothing_said(request: Request) -> None:
    if request.receipt:
        return
    if (request.receipt_ledger, request.receipt_audit) != (LedgerHead(), AuditHead()):
        raise Refusal(RefusalCode.MALFORMED, "heads without a receipt that speaks of them")
