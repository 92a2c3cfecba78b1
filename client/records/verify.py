"""``audit verify``: are the audit log and the privacy ledger unchanged? Offline, from files alone.

Each line of the log must be signed by the site, numbered in order and name the hash of the line
before. Each charge that the log names must be in the ledger and cost what its plan says, and the
plan must match its hash (:mod:`client.records.chain`). Each receipt must be signed by a
coordinator that the site has joined, and name lines and charges that exist. So these are found,
and named by their line: an edit, a deletion, a new order, another site's log, a tail cut below a
receipt, an old ledger that was restored, an emptied ledger, a charge made cheaper. Anyone with the
site's key can write a complete new log: only receipts, also those kept elsewhere, reveal that.

A receipt for what this site never sealed says nothing about this site. It is not a fault of the
log: it is reported as a coordinator's signature over something that never existed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from client.records import audit_log, receipts
from client.records.audit_log import AuditHead
from client.records.chain import (
    ChargeRow,
    breaks,
    changed_plans,
    ends_changed,
    entry_of,
    is_signed,
    lost_charges,
    misplaced_members,
    recount,
    stored_charges,
)
from client.records.receipts import DISPUTED, Receipt, SiteHeads, read_receipts
from client.records.seals import Seals
from client.records.state_folder import LOG_HEAD, read_remembered
from client.records.store import FILE as STORE
from client.records.store import is_whole
from common.errors import SiteError, of_system
from common.files import sha256
from common.wire.enrolment import COORDINATOR_CARD, read_coordinator_card
from common.wire.messages import HASH_OF_NOTHING, LedgerHead
from common.wire.signing import SigningKey

JOINED: Final = "coordinator.joined"
"""The event that names a coordinator's signing key in the log."""
_NO_LOG: Final = AuditHead()
_NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Fault:
    """Something that was changed after the site wrote it.

    Attributes:
        file: in the state folder.
        line: counted from 1; of the ledger, the charge; of the plans, the plan; of
            the patients' stays, the stay.
        what: in words.
    """

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What an inspection found.

    Attributes:
        head: of the log in the file.
        receipts: how many were held against it.
        receipted: the last line of the log that a receipt speaks of; beyond it, a cut tail
            would not be found.
        charges: of the ledger.
        coordinators: fingerprints of those whose receipts hold, to compare with their cards.
        torn: bytes at the log's end that a crash left half written; they never counted.
        faults: what is wrong; empty if verification passed.
        further: of the receipts, those that were kept elsewhere.
        disputed: what a coordinator has signed for but this site never sent, in words.
    """

    head: AuditHead
    receipts: int
    receipted: int
    charges: int
    coordinators: tuple[str, ...]
    torn: int
    faults: tuple[Fault, ...]
    further: int = 0
    disputed: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def inspect(
    log: bytes,
    *,
    site: str,
    key: SigningKey,
    coordinators: Mapping[str, str] = _NOTHING,
    kept: Sequence[tuple[int, Receipt | None]] = (),
    charges: Sequence[ChargeRow] = (),
    plans: Mapping[str, str] = _NOTHING,
    stays: Sequence[tuple[int, int | None]] = (),
    remembered: AuditHead = _NO_LOG,
) -> Verdict:
    """Check a log and a ledger against their own hash chains and the coordinator's receipts.

    Args:
        log: content of ``audit.jsonl``.
        site: the site's name.
        key: the site's own, which opens its seals too.
        coordinators: the joined coordinator's fingerprint by its signing key; those that were
            joined before are read from the log.
        kept: receipts with their line numbers; None for a line that is none.
        charges: the ledger, oldest first.
        plans: text of each plan by the hash that it is stored under.
        stays: from and to which charge each patient was in a cohort.
        remembered: the log's head at the last start or stop, as the store has it.
    """
    # After the last newline there is nothing, or what a crash left of a line.
    *lines, tail = log.split(b"\n")
    hashes = [HASH_OF_NOTHING, *map(sha256, lines)]
    ledger = [HASH_OF_NOTHING, *(row.hash for row in charges)]
    faults = [Fault(audit_log.FILE, *each) for each in breaks(lines, hashes, key.public)]
    found = (
        *lost_charges(lines, key.public, ledger),
        *recount(charges, plans),
        *changed_plans(plans),
        *misplaced_members(stays, len(charges)),
    )
    faults += [Fault(STORE, *each) for each in found]
    if ends_changed(tail):
        faults.append(Fault(audit_log.FILE, len(lines) + 1, "the end of this line was changed"))
        tail = b""
    # Without any receipt too: the store remembers the log's head at the last start or stop.
    lost = _lost("the audit log", remembered, hashes, "its tail was cut")
    if lost:
        faults.append(
            Fault(audit_log.FILE, remembered.length, f"compared with the site's database, {lost}")
        )
    # Coordinators that were joined before count as well: their receipts bind the site still.
    joined = {**_joined(lines, key.public), **coordinators}
    seals, doubted, disputed, receipted = Seals(key), list[Fault](), list[str](), 0
    for number, receipt in kept:
        unsigned = _signature_faults(number, receipt, joined)
        doubted += unsigned
        if receipt is None or unsigned:
            continue
        heads = receipt.heads(seals)
        if heads is not None:
            receipted = max(receipted, heads.audit.length)
            doubted += _receipt_faults(number, heads, hashes, ledger)
        elif receipt.site != site:
            doubted.append(Fault(receipts.FILE, number, "this receipt belongs to another site"))
        else:
            disputed.append(_disputed(receipts.FILE, number, receipt, joined))
    faults += _once(doubted)
    return Verdict(
        head=AuditHead(len(lines), hashes[-1]),
        receipts=sum(receipt is not None for _, receipt in kept),
        receipted=receipted,
        charges=len(charges),
        coordinators=tuple(
            dict.fromkeys(joined[each.key] for _, each in kept if each and each.key in joined)
        ),
        torn=len(tail),
        faults=tuple(faults),
        disputed=tuple(disputed),
    )


def inspect_state(state: Path, site: str, *, elsewhere: Sequence[Path] = ()) -> Verdict:
    """Inspect a state folder; nothing in it is changed, and the daemon need not run.

    Args:
        state: the folder.
        site: the site's name.
        elsewhere: folders with further ``receipts.jsonl``, kept out of this machine's reach.

    Raises:
        SiteError: the folder or a file in it cannot be read, or one elsewhere holds no receipts.
        CoordinatorError: the joined coordinator's card cannot be read.
    """
    _require_receipts(elsewhere)
    log = state / audit_log.FILE
    card = state / COORDINATOR_CARD
    coordinator = read_coordinator_card(card) if card.exists() else None
    try:
        key = SigningKey((state / "signing.key").read_bytes())
        content = log.read_bytes() if log.exists() else b""
        further = [pair for folder in elsewhere for pair in read_receipts(folder)]
        kept = [*read_receipts(state), *further]
        evidence = read_receipts(state, DISPUTED)
        stored = _stored(state / STORE)
    except OSError as error:
        what = "the state folder cannot be verified"
        raise of_system(error, SiteError, what, where=error.filename or state) from error
    except (ValueError, sqlite3.Error) as error:
        raise SiteError(
            "the state folder cannot be verified",
            where=state,
            found=error,
            remedy="give the path of a complete state folder that this user can read",
        ) from error
    ours = {coordinator.signing_key: coordinator.fingerprint} if coordinator else {}
    verdict = inspect(
        content,
        site=site,
        key=key,
        coordinators=ours,
        kept=kept,
        charges=stored.charges,
        plans=stored.plans,
        stays=stored.stays,
        remembered=stored.remembered,
    )
    emptied = (
        []
        if stored.whole
        else [Fault(STORE, 1, "tables are missing or changed: the database was emptied")]
    )
    seals, joined = Seals(key), {**_joined(content.split(b"\n")[:-1], key.public), **ours}
    return replace(
        verdict,
        further=sum(receipt is not None for _, receipt in further),
        faults=(*emptied, *verdict.faults),
        disputed=(
            *verdict.disputed,
            *(
                _disputed(DISPUTED, number, each, joined)
                for number, each in evidence
                if each and each.holds and each.key in joined and each.heads(seals) is None
            ),
        ),
    )


def _require_receipts(folders: Sequence[Path]) -> None:
    """A folder without receipts would make the result look better checked than it is."""
    for folder in folders:
        if not (folder / receipts.FILE).is_file():
            raise SiteError(
                "no receipts found",
                where=folder,
                found="a folder without receipts.jsonl" if folder.is_dir() else "no such folder",
                wanted="a folder with a copy of this site's receipts.jsonl",
                remedy="give the folder of a copy with --receipts, or leave --receipts out",
            )


@dataclass(frozen=True)
class _Stored:
    """The ledger, its plans, the patients' stays, and the log's head as the store remembers it."""

    charges: Sequence[ChargeRow] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    stays: Sequence[tuple[int, int | None]] = ()
    remembered: AuditHead = _NO_LOG
    whole: bool = False


def _stored(path: Path) -> _Stored:
    # Read only: a copy on another machine must stay as it is, and a missing file must not be made.
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as store:
        if not is_whole(store):
            return _Stored()
        charges = stored_charges(store)
        plans = dict(store.execute("SELECT plan_hash, plan FROM approvals ORDER BY rowid"))
        stays = store.execute("SELECT since, until FROM members ORDER BY rowid").fetchall()
        kept = store.execute("SELECT value FROM facts WHERE name = ?", (LOG_HEAD,)).fetchone()
    remembered = read_remembered(kept[0]) if kept else _NO_LOG
    return _Stored(charges, plans, stays, remembered, whole=True)


def _disputed(file: str, number: int, receipt: Receipt, joined: Mapping[str, str]) -> str:
    return (
        f"{file}, line {number}: coordinator {joined[receipt.key]} signed for a ledger of "
        f"{receipt.ledger.length} charges and a log that this site never had"
    )


def _joined(lines: Sequence[bytes], key: str) -> dict[str, str]:
    """Fingerprints of the coordinators that the site says it has joined, by signing key."""
    found = {}
    for entry in (entry_of(line) for line in lines if JOINED.encode() in line):
        if entry and entry["event"] == JOINED and is_signed(entry, key):
            found[str(entry.get("signing_key"))] = str(entry.get("fingerprint"))
    return found


def _signature_faults(
    number: int, receipt: Receipt | None, joined: Mapping[str, str]
) -> list[Fault]:
    if receipt is None:
        return [Fault(receipts.FILE, number, "this is not a receipt")]
    if receipt.key not in joined:
        what = "its key belongs to no coordinator that this site has joined"
        return [Fault(receipts.FILE, number, what)]
    if not receipt.holds:
        return [Fault(receipts.FILE, number, "the coordinator's signature is invalid")]
    return []


def _once(faults: Sequence[Fault]) -> list[Fault]:
    """The same fact once, by the first receipt that tells it, with how many more do."""
    facts: dict[tuple[str, str], list[Fault]] = {}
    for each in faults:
        # Each receipt names another entry of one rewritten chain: compare all but the number.
        fact = each.what.partition(" had ")[0], each.what.rpartition(": ")[2]
        facts.setdefault(fact, []).append(each)
    return [
        replace(first, what=f"{first.what}; {len(more)} more receipts show the same")
        if more
        else first
        for first, *more in facts.values()
    ]


def _receipt_faults(
    number: int, heads: SiteHeads, log: Sequence[str], ledger: Sequence[str]
) -> list[Fault]:
    found = []
    for name, head, hashes, lost in (
        ("the audit log", heads.audit, log, "its tail was cut"),
        ("the ledger", heads.ledger, ledger, "an older one was restored"),
    ):
        what = _lost(name, head, hashes, lost)
        if what:
            found.append(Fault(receipts.FILE, number, what))
    return found


def _lost(name: str, head: AuditHead | LedgerHead, hashes: Sequence[str], how: str) -> str | None:
    """What is missing of a chain that once had this head; None if nothing is."""
    last = len(hashes) - 1
    if head.length > last:
        return f"{name} had {head.length} entries and now has {last}: {how}"
    if hashes[head.length] != head.hash:
        return f"{name} had another entry {head.length}: it was rewritten"
    return None
