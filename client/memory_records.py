"""The records of a simulated site, which end with the process: all of them follow from its keys.

Every gate does with them what it does with those on disk. Nobody would read the lines of an audit
log, so its head moves on and no line is kept. No reply is kept either: a simulation's coordinator
asks for none a second time, and where it did, this site would refuse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from client.keys import keys_of_seed
from client.records.audit_log import CHARGED, AuditHead, AuditLog
from client.records.replies import Replies
from client.records.store import SiteDatabase
from client.site_records import SiteRecords
from common.files import sha256
from common.wire.messages import HASH_OF_NOTHING, LedgerHead, Reply, Request

_REMEMBERED: Final = 64
"""Hashes of the newest heads, for receipts; a simulation's coordinator gives none."""


class UnkeptLog(AuditLog):
    """A log in memory that counts its lines and forgets them."""

    def __init__(self) -> None:
        self._head, self._charged = AuditHead(), LedgerHead()
        self._hashes = {0: HASH_OF_NOTHING}

    @property
    def keeps(self) -> bool:
        """Nobody can read its lines, so what only they would say need not be worked out."""
        return False

    def refresh(self) -> AuditHead:
        """The head; no other process has a part in it."""
        return self._head

    def append(self, event: str, **fields: object) -> AuditHead:
        """Count a line; the head then covers its event and number."""
        if event == CHARGED:
            self._charged = LedgerHead(int(str(fields["charge"])), str(fields["head"]))
        number = self._head.length + 1
        self._head = AuditHead(number, sha256(f"{self._head.hash} {number} {event}".encode()))
        self._hashes[number] = self._head.hash
        self._hashes.pop(number - _REMEMBERED, None)
        return self._head

    def hash_at(self, length: int) -> str | None:
        """The hash that the head had at a length, if that is not long ago."""
        return self._hashes.get(length)

    def close(self) -> None:
        """Nothing is open."""


class UnkeptReplies(Replies):
    """Those of a simulated site: none is kept, since each can be computed again to the bit."""

    def find(self, request: Request) -> Reply | None:
        """None."""
        del request
        return None

    def put(self, request: Request, reply: Reply) -> None:
        """Keep nothing: a thousand sites with a model each would fill the memory."""

    def acknowledge(self, plan_hash: str, last_round: int) -> None:
        """Nothing is kept."""


def records_in_memory(state: Path, site: str, known_seed: int) -> SiteRecords:
    """The records of a simulated site.

    Nothing is written to ``state``, which need not be there.
    """
    store, keys = SiteDatabase(None), keys_of_seed(site, known_seed)
    records = SiteRecords(state, keys, store, UnkeptLog(), UnkeptReplies(store))
    records.expire()  # as at every opening: it notes the time
    return records
