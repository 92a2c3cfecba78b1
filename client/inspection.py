"""``audit verify``: can the audit log and the ledger be believed? Offline, from files alone.

Each line of the log must be signed by the site, numbered in order and name the hash of the
line before; each receipt must be signed by a coordinator that the site has joined, and speak of
lines and charges that are there; each charge must cost what its plan says, and the plan be the
one that its hash names (:mod:`client.recount`). So an edit, a deletion, a reordering, another
site's log, a tail that was cut below a receipt, an old ledger that was brought back and a
cheapened one are each found, and named by their line. Whoever holds the site's key can write a
whole new log: receipts, kept elsewhere too, are what finds that.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from client import audit, receipts
from client.audit import signed_part
from client.receipts import Receipt, read_receipts
from client.recount import ChargeRow, changed_plans, misplaced_members, recount
from client.store import LOG_HEAD
from common.documents import read_json
from common.enrolment import COORDINATOR_CARD, read_coordinator_card
from common.errors import SiteError
from common.files import canonical_json, sha256
from common.messages import HASH_OF_NOTHING, AuditHead, LedgerHead
from common.signing import SigningKey, verify

STORE: Final = "site.sqlite"
JOINED: Final = "coordinator.joined"
"""The event that names a coordinator's signing key in the log."""
_NO_LOG: Final = AuditHead()
_NOTHING: Final[Mapping[str, str]] = {}
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class Fault:
    """Something that is not as the site wrote it.

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
        head: of the log, as it stands in the file.
        receipts: how many were held against it.
        receipted: the last line of the log that a receipt speaks of; beyond it, a cut tail
            would not be found.
        charges: of the ledger.
        coordinators: fingerprints of those whose receipts hold; whoever joined them can tell.
        torn: bytes at the log's end that a crash left half written; they never counted.
        faults: what is wrong; empty where everything can be believed.
        further: of the receipts, those that were kept elsewhere.
    """

    head: AuditHead
    receipts: int
    receipted: int
    charges: int
    coordinators: tuple[str, ...]
    torn: int
    faults: tuple[Fault, ...]
    further: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def inspect(
    log: bytes,
    *,
    site: str,
    key: str,
    coordinators: Mapping[str, str] = _NOTHING,
    kept: Sequence[tuple[int, Receipt | None]] = (),
    charges: Sequence[ChargeRow] = (),
    plans: Mapping[str, str] = _NOTHING,
    stays: Sequence[tuple[int, int | None]] = (),
    remembered: AuditHead = _NO_LOG,
) -> Verdict:
    """Hold a log and a ledger against their own chains and the coordinator's receipts.

    Args:
        log: content of ``audit.jsonl``.
        site: the site's name.
        key: the site's public signing key, 64 hexadecimal digits.
        coordinators: the joined coordinator's fingerprint by its signing key; those that were
            joined before are read from the log.
        kept: receipts with their line numbers; None for a line that is none.
        charges: the ledger, oldest first.
        plans: text of each plan by the hash that it is stored under.
        stays: from and to which charge each patient was in a cohort.
        remembered: the log's head at the last start or stop, as the store has it.
    """
    *lines, tail = log.split(b"\n")
    hashes = [HASH_OF_NOTHING, *map(sha256, lines)]
    ledger = [HASH_OF_NOTHING, *(row.hash for row in charges)]
    faults = _log_faults(lines, hashes, key)
    found = (
        *recount(charges, plans),
        *changed_plans(plans),
        *misplaced_members(stays, len(charges)),
    )
    faults += [Fault(STORE, *each) for each in found]
    if _is_whole(tail):
        faults.append(Fault(audit.FILE, len(lines) + 1, "its end was changed"))
        tail = b""
    lost = _lost("the audit log", remembered, hashes, "its tail was cut")
    if lost:
        faults.append(Fault(audit.FILE, remembered.length, f"by the site's store, {lost}"))
    joined = {**_joined(lines, key), **coordinators}
    doubted: list[Fault] = []
    for number, receipt in kept:
        unsigned = _signature_faults(number, receipt, site, joined)
        doubted += unsigned
        if receipt and not unsigned:
            doubted += _receipt_faults(number, receipt, hashes, ledger)
    faults += _once(doubted)
    return Verdict(
        head=AuditHead(len(lines), hashes[-1]),
        receipts=sum(receipt is not None for _, receipt in kept),
        receipted=max((each.audit.length for _, each in kept if each), default=0),
        charges=len(charges),
        coordinators=_signers([each for _, each in kept if each], joined),
        torn=len(tail),
        faults=tuple(faults),
    )


def inspect_state(state: Path, site: str, *, elsewhere: Sequence[Path] = ()) -> Verdict:
    """Inspect a state folder; nothing in it is changed, and no daemon need run.

    Args:
        state: the folder.
        site: the site's name.
        elsewhere: folders with further ``receipts.jsonl``, kept out of this machine's reach.

    Raises:
        SiteError: the folder or a file in it cannot be read, or one elsewhere holds no receipts.
        CoordinatorError: the joined coordinator's card cannot be read.
    """
    _require_receipts(elsewhere)
    log = state / audit.FILE
    card = state / COORDINATOR_CARD
    coordinator = read_coordinator_card(card) if card.exists() else None
    try:
        key = SigningKey((state / "signing.key").read_bytes()).public
        content = log.read_bytes() if log.exists() else b""
        further = [pair for folder in elsewhere for pair in read_receipts(folder)]
        kept = [*read_receipts(state), *further]
        charges, plans, stays, remembered = _stored(state / STORE)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise SiteError(
            "the site's state cannot be inspected",
            where=state,
            found=type(error).__name__,
            remedy="name the whole state folder, and let this user read it",
        ) from error
    verdict = inspect(
        content,
        site=site,
        key=key,
        coordinators={coordinator.signing_key: coordinator.fingerprint} if coordinator else {},
        kept=kept,
        charges=charges,
        plans=plans,
        stays=stays,
        remembered=remembered,
    )
    return replace(verdict, further=sum(receipt is not None for _, receipt in further))


def _require_receipts(folders: Sequence[Path]) -> None:
    """A folder without receipts would let a log look better founded than it is."""
    for folder in folders:
        if not (folder / receipts.FILE).is_file():
            raise SiteError(
                "there are no receipts",
                where=folder,
                found="no receipts.jsonl there" if folder.is_dir() else "no such folder",
                wanted="a folder with a copy of this site's receipts.jsonl",
            )


def _stored(
    path: Path,
) -> tuple[list[ChargeRow], dict[str, str], list[tuple[int, int | None]], AuditHead]:
    """The ledger, its plans, the patients' stays, and the log's head as the store remembers it."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as store:
        names = ", ".join(field.name for field in fields(ChargeRow))
        rows = store.execute(f"SELECT {names} FROM charges ORDER BY length")  # noqa: S608 - our own
        charges = [ChargeRow(*row) for row in rows]
        plans = dict(store.execute("SELECT plan_hash, plan FROM approvals ORDER BY rowid"))
        stays = store.execute("SELECT since, until FROM members ORDER BY rowid").fetchall()
        kept = store.execute("SELECT value FROM facts WHERE name = ?", (LOG_HEAD,)).fetchone()
    length, hash_ = kept[0].split(" ") if kept else (0, HASH_OF_NOTHING)
    return charges, plans, stays, AuditHead(int(length), hash_)


def _log_faults(lines: Sequence[bytes], hashes: Sequence[str], key: str) -> list[Fault]:
    """Each break of the chain once: what follows a break and holds together is not named."""
    faults: list[Fault] = []
    foreign = before = 0
    previous_is_sound = True
    for number, line in enumerate(lines, start=1):
        entry = _read(line)
        what = None
        sound = entry is not None and _is_signed(entry, key)
        if entry is None:
            what = "it is no entry of an audit log"
        elif not sound:
            what, foreign = "it was changed, or another site signed it", foreign + 1
        elif entry["number"] != before + 1:
            what = _gap(entry["number"], number, before)
        elif previous_is_sound and entry["previous"] != hashes[number - 1]:
            # What a changed line is followed by names the hash that it had before.
            what = "it follows another line than the one before it"
        if what:
            faults.append(Fault(audit.FILE, number, what))
        before = entry["number"] if entry and sound else before + 1
        previous_is_sound = sound
    if len(lines) > 1 and foreign == len(lines):
        return [Fault(audit.FILE, 1, "no line is signed by this site: the log is another site's")]
    return faults


def _gap(found: int, number: int, before: int) -> str:
    if found > before + 1:
        return f"one or more lines are missing before line {number}: entry {found} stands here"
    return f"entry {found} stands here: lines were removed, added or moved"


def _read(line: bytes) -> dict[str, Any] | None:
    """An entry in exactly the form in which it is written."""
    try:
        entry = read_json(line)
        canonical = canonical_json(entry)
    except ValueError:
        return None
    wanted = {"number": int, "previous": str, "at": str, "event": str, "signature": str}
    if canonical != line or not isinstance(entry, dict):
        return None
    return entry if all(type(entry.get(name)) is kind for name, kind in wanted.items()) else None


def _is_signed(entry: dict[str, Any], key: str) -> bool:
    signature = entry["signature"]
    if _SIGNATURE.fullmatch(signature) is None:
        return False
    return verify(key, signed_part(entry), bytes.fromhex(signature))


def _is_whole(tail: bytes) -> bool:
    """Whether what stands after the last line's end is a line whose end was changed.

    What a crash leaves is the beginning of a line; a whole one with more behind it is not.
    """
    text = tail.decode("latin-1")  # the beginning of a line may end within a character
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return len(text) > end


def _joined(lines: Sequence[bytes], key: str) -> dict[str, str]:
    """Fingerprints of the coordinators that the site says it has joined, by signing key."""
    found = {}
    for entry in (_read(line) for line in lines if JOINED.encode() in line):
        if entry and entry["event"] == JOINED and _is_signed(entry, key):
            found[str(entry.get("signing_key"))] = str(entry.get("fingerprint"))
    return found


def _signers(kept: Sequence[Receipt], joined: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(joined[each.key] for each in kept if each.key in joined))


def _signature_faults(
    number: int, receipt: Receipt | None, site: str, joined: Mapping[str, str]
) -> list[Fault]:
    if receipt is None:
        return [Fault(receipts.FILE, number, "it is no receipt")]
    if receipt.key not in joined:
        what = "its key is of no coordinator that this site has joined"
        return [Fault(receipts.FILE, number, what)]
    if not receipt.holds(site):
        return [Fault(receipts.FILE, number, "the coordinator did not sign it")]
    return []


def _once(faults: Sequence[Fault]) -> list[Fault]:
    """The same fact once, by the first receipt that tells it, with how many more do."""
    facts: dict[tuple[str, str], list[Fault]] = {}
    for each in faults:
        # Of a chain that was rewritten each receipt names another entry.
        fact = each.what.partition(" had ")[0], each.what.rpartition(": ")[2]
        facts.setdefault(fact, []).append(each)
    return [
        replace(first, what=f"{first.what}; {len(more)} more of the receipts say so")
        if more
        else first
        for first, *more in facts.values()
    ]


def _receipt_faults(
    number: int, receipt: Receipt, log: Sequence[str], ledger: Sequence[str]
) -> list[Fault]:
    found = []
    for name, head, hashes, lost in (
        ("the audit log", receipt.audit, log, "its tail was cut"),
        ("the ledger", receipt.ledger, ledger, "an older one was brought back"),
    ):
        what = _lost(name, head, hashes, lost)
        if what:
            found.append(Fault(receipts.FILE, number, what))
    return found


def _lost(name: str, head: AuditHead | LedgerHead, hashes: Sequence[str], how: str) -> str | None:
    """What is not there any more of a chain that once had this head."""
    last = len(hashes) - 1
    if head.length > last:
        return f"{name} had {head.length} entries and has {last}: {how}"
    if hashes[head.length] != head.hash:
        return f"{name} had another entry {head.length}: it was rewritten"
    return None
