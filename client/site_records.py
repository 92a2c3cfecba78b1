"""What a site remembers: its store and all that is kept in it, its audit log and its receipts.

They belong together: under another ``patients.key`` the ledger would know nobody, and without the
ledger nobody would have spent anything. So a folder that lacks one of them, or that belongs to
another seed, is refused (:mod:`client.records.state_folder`).
"""

from __future__ import annotations

from pathlib import Path

from client.keys import SiteKeys, open_keys
from client.records.approvals import CLOCK, Approvals
from client.records.audit_log import CHARGED, AuditLog
from client.records.ledger import Ledger
from client.records.receipts import SiteReceipts
from client.records.replies import Replies
from client.records.seals import Seals
from client.records.state_folder import (
    is_used,
    keep_remembered,
    remembered_log,
    require_held,
    require_private,
    require_store,
)
from client.records.store import FILE, SiteDatabase
from common.wire.messages import LedgerHead


class SiteRecords:
    """The records of one site; close them.

    Args:
        state: the state folder.
        keys: the site's.
        store: open.
        audit: open.
        replies: in the store; by default kept there.
    """

    def __init__(
        self,
        state: Path,
        keys: SiteKeys,
        store: SiteDatabase,
        audit: AuditLog,
        replies: Replies | None = None,
    ) -> None:
        self.state, self.keys, self.store, self.audit = state, keys, store, audit
        self.approvals, self.ledger = Approvals(store), Ledger(store)
        self.replies = replies or Replies(store)
        self._seals = Seals(keys.signing)
        self.receipts = SiteReceipts(state, keys.site, self.ledger, audit, self._seals)

    def heads(self) -> tuple[LedgerHead, str]:
        """What goes out with each reply: the ledger's head, and the audit log's, sealed."""
        ledger = self.ledger.head()
        return ledger, self._seals.seal(ledger, self.audit.head)

    def note_charges(self) -> None:
        """Write a line for each charge that has none.

        Call it when a charge is durable, and before anything is computed for it. Should the
        process die in between, the next opening writes the line.
        """
        self.audit.refresh()
        for row in self.ledger.charges(self.audit.charged.length):
            self.audit.append(
                CHARGED,
                charge=row["length"],
                head=row["hash"],
                plan=row["plan_hash"],
                round=row["round"],
                part=row["part"],
            )

    def expire(self) -> None:
        """End approvals whose time is over: permanently, and with their keys."""
        if not self.approvals.is_time():
            return
        with self.store.transaction():
            ended = self.approvals.expire()
            for plan_hash, study in ended:
                self.audit.append("study.expired", study=study, plan=plan_hash, by=CLOCK)
        if ended:
            self.store.erase()

    def remember_log(self) -> None:
        """Keep the log's head in the store too: a log that was cut or taken away is found."""
        keep_remembered(self.store, self.audit.refresh())

    def close(self) -> None:
        """Close the store and the log."""
        self.store.close()
        self.audit.close()


def open_records(state: Path, site: str, known_seed: int | None) -> SiteRecords:
    """Open a site's records, making its keys, its store and its audit log where there are none.

    Raises:
        SiteError: one of them is missing, or not the one that the others belong to.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if known_seed is None:
        require_private(state)
    require_store(state)
    # The store, then keys, then the log: what is missing later then tells what was lost.
    store = SiteDatabase(state / FILE, make=not is_used(state))
    audit: AuditLog | None = None
    try:
        keys = open_keys(state, store, site, known_seed)
        # Before the log is opened: another process may be adding to both.
        remembered = remembered_log(store)
        audit = AuditLog(state, keys.signing)
        require_held(store, audit, remembered)
    except BaseException:
        store.close()
        if audit is not None:
            audit.close()
        raise
    records = SiteRecords(state, keys, store, audit)
    if remembered_log(store) is None:
        records.remember_log()  # before the first line: a log with lines has a store that knows it
    records.note_charges()
    records.expire()
    return records
