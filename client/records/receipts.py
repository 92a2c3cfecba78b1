"""The coordinator's receipts: its signature that a site has sent it these two heads.

A receipt comes with a request. It counts only for heads that this site has sealed itself
(:mod:`client.records.seals`). A coordinator can sign anything: a receipt for what this site never
sent is refused, kept as evidence in ``disputed.jsonl``, and used for nothing else.

A receipt that counts is kept in ``receipts.jsonl``. Before anything else is done, it is compared
with the ledger and the audit log on disk, and so is the longest that was ever kept. If one of them
names what is not on disk, an old state folder was restored. Charges are missing then, and the same
budget must not be spent twice, so the site refuses every request, also of new studies, until the
latest state folder is restored. The kept receipts also show later that a log's tail was cut
(:mod:`client.records.verify`).

A site that has not joined a coordinator has no key to verify a receipt with, and keeps none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from client.records.audit_log import AuditHead, AuditLog
from client.records.ledger import Ledger
from client.records.seals import Seals
from client.records.store import LOST
from common.documents import read_json
from common.errors import Refusal, RefusalCode
from common.files import canonical_json
from common.wire.enrolment import COORDINATOR_CARD, read_coordinator_card
from common.wire.messages import NO_SEAL, SEAL_DIGITS, LedgerHead, Request, receipt_bytes
from common.wire.signing import verify

FILE: Final = "receipts.jsonl"
DISPUTED: Final = "disputed.jsonl"
MOST_DISPUTED: Final = 100
"""Pieces of evidence that are kept. One would prove the case, so a flood of them is not stored."""
_SEAL: Final = re.compile(rf"[0-9a-f]{{{SEAL_DIGITS}}}")


class SiteHeads(NamedTuple):
    """How far the ledger and the audit log had come at one moment."""

    ledger: LedgerHead
    audit: AuditHead


@dataclass(frozen=True)
class Receipt:
    """One receipt as it is kept.

    Attributes:
        site: the site's name at that time.
        key: the coordinator's Ed25519 key, 64 hexadecimal digits.
        ledger: the ledger's head that it speaks of.
        seal: the audit log's, as the site sealed it.
        signature: over :func:`common.wire.messages.receipt_bytes`.
    """

    site: str
    key: str
    ledger: LedgerHead
    seal: str
    signature: bytes = field(repr=False)

    @property
    def holds(self) -> bool:
        """Whether its signature is the coordinator's."""
        return verify(self.key, receipt_bytes(self.site, self.ledger, self.seal), self.signature)

    def heads(self, seals: Seals) -> SiteHeads | None:
        """What it speaks of; None where the site did not seal that."""
        audit = seals.opened(self.ledger, self.seal)
        return None if audit is None else SiteHeads(self.ledger, audit)

    @property
    def line(self) -> bytes:
        """How it is written."""
        value = {
            "site": self.site,
            "key": self.key,
            "ledger": [self.ledger.length, self.ledger.hash],
            "seal": self.seal,
            "signature": self.signature.hex(),
        }
        return canonical_json(value) + b"\n"


class SiteReceipts:
    """The receipts of one site.

    Args:
        state: the state folder.
        site: the site's name.
        ledger: what receipts are held against.
        audit: likewise.
        seals: the site's own.
    """

    def __init__(
        self, state: Path, site: str, ledger: Ledger, audit: AuditLog, seals: Seals
    ) -> None:
        self._state, self._site = state, site
        self._ledger, self._audit, self._seals = ledger, audit, seals
        self._key, self._joined = "", 0
        self._newest: tuple[Receipt, SiteHeads] | None = None
        self._longest: tuple[SiteHeads, ...] | None = None

    def take(self, request: Request) -> None:
        """Keep a request's receipt; compare it and the longest kept ones with what is on disk.

        Raises:
            Refusal: ``malformed`` for one that does not verify, or names what this site never
                sent; ``ledger-behind`` if one names what is not on disk any more.
        """
        for each in (*self._brought(request), *self._longest_kept()):
            self._require_here(each)

    def _brought(self, request: Request) -> tuple[SiteHeads, ...]:
        """What the receipt that comes with a request speaks of, if one does; it is kept."""
        key = self._coordinator()
        if not key or not request.receipt:
            _require_nothing_said(request)
            return ()
        receipt = Receipt(
            self._site, key, request.receipt_ledger, request.receipt_seal, request.receipt
        )
        # The coordinator repeats its newest receipt: no need to verify and write it each time.
        if self._newest and receipt == self._newest[0]:
            return (self._newest[1],)
        if not receipt.holds:
            raise Refusal(RefusalCode.MALFORMED, "a receipt with an invalid signature")
        heads = receipt.heads(self._seals)
        if heads is None:
            self._dispute(receipt)
            raise Refusal(
                RefusalCode.MALFORMED,
                "a receipt for something that this site never sent",
                found="the coordinator's signature over values that this site did not seal",
                remedy=f"ask the coordinator why it signed this; the receipt is in {DISPUTED}",
            )
        self._keep(receipt, heads)
        return (heads,)

    def _coordinator(self) -> str:
        """The key of the coordinator that the site has joined; empty before that.

        Raises:
            SiteError: its card cannot be read.
        """
        # Read again if the file changed: "join" runs in another process than the daemon.
        card = self._state / COORDINATOR_CARD
        try:
            written = card.stat().st_mtime_ns
        except FileNotFoundError:
            return ""
        if written != self._joined:
            self._key = read_coordinator_card(card).signing_key
            self._joined = written
        return self._key

    def _longest_kept(self) -> tuple[SiteHeads, ...]:
        """The receipts with the longest ledger and with the longest log, of any coordinator.

        The site has sealed each itself, under any name it had. So an old copy of ledger and log is
        noticed from the receipts beside it, without asking a coordinator.
        """
        if self._longest is None:
            longest: tuple[SiteHeads, ...] = ()
            for _, each in _lines(self._state / FILE):  # not all at once: there may be millions
                heads = each.heads(self._seals) if each else None
                if heads:
                    longest = _longest([*longest, heads])
            self._longest = longest
        return self._longest

    def _require_here(self, heads: SiteHeads) -> None:
        if (
            self._ledger.hash_at(heads.ledger.length) != heads.ledger.hash
            or self._audit.hash_at(heads.audit.length) != heads.audit.hash
        ):
            here = f"{self._ledger.head().length} charges, {self._audit.head.length} lines"
            seen = f"{heads.ledger.length} charges, {heads.audit.length} lines"
            raise Refusal(
                RefusalCode.LEDGER_BEHIND,
                "the privacy ledger or the audit log does not match what this site has sent",
                found=here,
                wanted=f"{seen}, as this site itself sealed",
                remedy=f"if another machine runs with a copy of this state folder, stop it; {LOST}",
            )

    def _keep(self, receipt: Receipt, heads: SiteHeads) -> None:
        """Add a line, without fsync: the next receipt covers the same and more."""
        self._newest = receipt, heads
        self._longest = _longest([*self._longest_kept(), heads])
        _add(self._state / FILE, receipt.line)

    def _dispute(self, receipt: Receipt) -> None:
        """Keep evidence once, and up to a limit: a coordinator could send any number of these."""
        there = read_receipts(self._state, DISPUTED)
        if len(there) < MOST_DISPUTED and receipt not in [each for _, each in there]:
            _add(self._state / DISPUTED, receipt.line)


def read_receipts(state: Path, name: str = FILE) -> list[tuple[int, Receipt | None]]:
    """The kept receipts with their lines' numbers; None for a line that is none.

    What a crash left half written, which lacks its last brace, is passed over.
    """
    return list(_lines(state / name))


def _lines(path: Path) -> Iterator[tuple[int, Receipt | None]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, ended in enumerate(file, start=1):
            line = ended.removesuffix(b"\n")
            if line.endswith(b"}"):
                yield number, _read(line)


def _add(path: Path, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(file).st_size
        # After a line that a crash left half written, begin a new one: only the torn line is lost.
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, b"\n" + line if torn else line)
    finally:
        os.close(file)


def _longest(kept: Sequence[SiteHeads]) -> tuple[SiteHeads, ...]:
    """Those with the longest ledger and with the longest log."""
    if not kept:
        return ()
    # Two, since a request that was refused lengthens the log without a charge: the receipt with the
    # longest log need not have the longest ledger.
    by_ledger = max(kept, key=lambda each: (each.ledger.length, each.audit.length))
    by_audit = max(kept, key=lambda each: (each.audit.length, each.ledger.length))
    return tuple(dict.fromkeys((by_ledger, by_audit)))


def _read(line: bytes) -> Receipt | None:
    try:
        found = read_json(line)
        ledger, signature = LedgerHead(*found["ledger"]), bytes.fromhex(found["signature"])
        receipt = Receipt(found["site"], found["key"], ledger, found["seal"], signature)
        # Byte for byte what this site writes: a line in another form was edited.
        well_formed = receipt.line == line + b"\n" and _SEAL.fullmatch(receipt.seal)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return receipt if well_formed else None


def _require_nothing_said(request: Request) -> None:
    if request.receipt:
        return
    if (request.receipt_ledger, request.receipt_seal) != (LedgerHead(), NO_SEAL):
        raise Refusal(
            RefusalCode.MALFORMED, "ledger and audit log values without a receipt for them"
        )
