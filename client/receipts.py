"""The coordinator's receipts: its signature that a site has sent it these two heads.

A receipt comes back beside a request. It is held against the ledger and the audit log at
hand before anything else is done: it may speak of no head that this site never sent, and of
none beyond the end, which would mean that an old state folder was brought back. What holds is
kept in ``receipts.jsonl``, so that a log whose tail was cut can be found out later, without
anybody's help (:mod:`client.inspection`).

A site that has not joined a coordinator knows no key to verify a receipt with, and keeps none.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from client.audit import AuditLog
from client.ledger import Ledger
from common.enrolment import read_coordinator_card
from common.errors import Refusal, RefusalCode
from common.files import canonical_json
from common.messages import AuditHead, LedgerHead, Request, receipt_bytes
from common.signing import verify

FILE: Final = "receipts.jsonl"
CARD: Final = "COORDINATOR.json"


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
        self._path, self._card, self._site = state / FILE, state / CARD, site
        self._ledger, self._audit = ledger, audit
        self._key, self._joined = "", 0
        self._ahead: set[tuple[LedgerHead, AuditHead]] = set()
        self._newest: Receipt | None = None

    def take(self, request: Request) -> None:
        """Hold a request's receipt against what is here, and keep it.

        Raises:
            Refusal: ``malformed`` for one that does not verify or speaks of what was never
                sent, ``ledger-behind`` for one that has seen more than there is here.
        """
        key = self._coordinator()
        if not key or not request.receipt:
            _require_nothing_said(request)
            return
        receipt = Receipt(key, request.receipt_ledger, request.receipt_audit, request.receipt)
        if receipt == self._newest:
            return
        if not receipt.holds(self._site):
            raise Refusal(RefusalCode.MALFORMED, "a receipt that the coordinator did not sign")
        heads = receipt.ledger, receipt.audit
        if heads not in self._ahead and self._is_ahead(receipt):
            self._keep(receipt)
            self._ahead.add(heads)
        if heads in self._ahead:
            raise self._behind(receipt)
        if (
            self._ledger.hash_at(receipt.ledger.length) != receipt.ledger.hash
            or self._audit.hash_at(receipt.audit.length) != receipt.audit.hash
        ):
            raise Refusal(RefusalCode.MALFORMED, "a receipt for heads that this site never sent")
        self._keep(receipt)
        self._newest = receipt

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

    def _is_ahead(self, receipt: Receipt) -> bool:
        beyond_ledger = receipt.ledger.length > self._ledger.head().length
        return beyond_ledger or receipt.audit.length > self._audit.head.length

    def _behind(self, receipt: Receipt) -> Refusal:
        here = f"{self._ledger.head().length} charges, {self._audit.head.length} lines"
        seen = f"{receipt.ledger.length} charges, {receipt.audit.length} lines"
        return Refusal(
            RefusalCode.LEDGER_BEHIND,
            "ledger or audit log are older than what this site has already sent",
            found=here,
            wanted=f"{seen}, as the coordinator has signed",
            remedy="bring back the newest state folder",
        )

    def _keep(self, receipt: Receipt) -> None:
        """Add a line; not waited for: the coordinator signs for the same and more next time."""
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


def _read(line: bytes) -> Receipt | None:
    try:
        found = json.loads(line)
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
