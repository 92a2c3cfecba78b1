"""Checks of the audit log's hash chain and of the ledger's.

The log: is each line signed, in its place, and does it name the line before? This needs only the
log and the site's public key. The ledger: is each charge the one that was made, at the cost that
its plan states? A charge's hash covers the round and plan that it was for, and the charge before
it. Its cost, from which the accounts are added up, follows from the plan, and the plan is checked
against the hash under which it is stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from client.records.accounts import Part, event_of
from client.records.audit_log import charge_of, signed_part
from common.documents import read_json
from common.errors import Refusal
from common.files import canonical_json, sha256
from common.plan import Plan, read_plan
from common.wire.messages import HASH_OF_NOTHING
from common.wire.signing import verify

if TYPE_CHECKING:
    import sqlite3

    from client.records.store import SiteDatabase

Finding = tuple[int, str]
"""A row, counted from 1, and what is wrong with it."""
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


def breaks(lines: Sequence[bytes], hashes: Sequence[str], key: str) -> list[Finding]:
    """Each break of the chain once: sound lines after a break are not named.

    Args:
        lines: of the log, without their ends.
        hashes: SHA-256 of nothing, and then of each line.
        key: the site's public signing key, 64 hexadecimal digits.
    """
    found: list[Finding] = []
    foreign = before = 0
    previous_is_sound = True
    for number, line in enumerate(lines, start=1):
        entry = entry_of(line)
        what = None
        sound = entry is not None and is_signed(entry, key)
        if entry is None:
            what = "this is not an audit log entry"
        elif not sound:
            what, foreign = "it was changed, or signed by another site", foreign + 1
        elif entry["number"] != before + 1:
            what = _gap(entry["number"], number, before)
        elif previous_is_sound and entry["previous"] != hashes[number - 1]:
            # The line after a changed line names the old hash: that is the same break, not another.
            what = "it does not follow the line before it"
        if what:
            found.append((number, what))
        # A line that cannot be trusted is counted by its place, so that its number misleads nobody.
        before = entry["number"] if entry and sound else before + 1
        previous_is_sound = sound
    if len(lines) > 1 and foreign == len(lines):
        return [(1, "no line is signed by this site: the log belongs to another site")]
    return found


def entry_of(line: bytes) -> dict[str, Any] | None:
    """An entry in exactly the form in which it is written."""
    try:
        entry = read_json(line)
        canonical = canonical_json(entry)
    except ValueError:
        return None
    wanted = {"number": int, "previous": str, "at": str, "event": str, "signature": str}
    # Only the exact form that is written: the same JSON with other spaces would verify as well.
    if canonical != line or not isinstance(entry, dict):
        return None
    return entry if all(type(entry.get(name)) is kind for name, kind in wanted.items()) else None


def is_signed(entry: dict[str, Any], key: str) -> bool:
    """Whether the site has signed an entry."""
    # In exactly one form: bytes.fromhex would also take capitals and blanks.
    signature = entry["signature"]
    if _SIGNATURE.fullmatch(signature) is None:
        return False
    return verify(key, signed_part(entry), bytes.fromhex(signature))


def ends_changed(tail: bytes) -> bool:
    """Whether the bytes after the last newline are a line whose end was changed.

    A crash leaves the beginning of a line. A whole line with more bytes after it is no crash.
    """
    text = tail.decode("latin-1")  # the beginning of a line may end within a character
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return len(text) > end


def _gap(found: int, number: int, before: int) -> str:
    if found > before + 1:
        return f"one or more lines are missing before line {number}: this is entry {found}"
    return f"this is entry {found}: lines were removed, added or moved"


NOTHING_BOUNDS = (None, None, 1)
"""The stored cost of a release without privacy protection."""


@dataclass(frozen=True)
class ChargeRow:
    """A charge as stored: its public part, and its cost."""

    length: int
    hash: str
    plan_hash: str
    round: int
    part: Part
    identity: str
    sampling_rate: float | None
    noise_multiplier: float | None
    count: int


def stored_charges(store: sqlite3.Connection | SiteDatabase) -> list[ChargeRow]:
    """The ledger as stored, oldest first."""
    names = ", ".join(each.name for each in fields(ChargeRow))
    rows = store.execute(f"SELECT {names} FROM charges ORDER BY length")  # noqa: S608 - our own
    return [ChargeRow(*row) for row in rows]


def recount(charges: Sequence[ChargeRow], plans: Mapping[str, str]) -> Iterator[Finding]:
    """The charges that were changed.

    Args:
        charges: the ledger, oldest first.
        plans: text of each plan by the hash that it is stored under.
    """
    # A plan is read once, though it may have thousands of charges.
    plan_of = cache(lambda hash_: _plan(hash_, plans))
    broken = dict(broken_chain(charges))
    for number, row in enumerate(charges, start=1):
        what = broken.get(number) or _miscounted(row, plan_of(row.plan_hash))
        if what:
            yield number, what


def broken_chain(charges: Sequence[ChargeRow]) -> Iterator[Finding]:
    """The charges that do not follow the one before; their cost is not checked.

    Args:
        charges: the ledger, oldest first.
    """
    previous = HASH_OF_NOTHING
    for number, row in enumerate(charges, start=1):
        what = _misplaced(row, number, previous)
        if what:
            yield number, what
        previous = row.hash


def lost_charges(lines: Sequence[bytes], key: str, ledger: Sequence[str]) -> Iterator[Finding]:
    """The first charge that the log names and the ledger lacks; else the first that it skips.

    Charges in the ledger beyond the last that the log names were left by a crash: their lines are
    written when the site opens again.
    """
    noted: set[int] = set()
    for number, line in enumerate(lines, start=1):
        charge = charge_of(line)
        entry = entry_of(line) if charge else None
        if charge is None or entry is None or not is_signed(entry, key):
            continue
        if ledger[charge.length : charge.length + 1] != [charge.hash]:
            how = "an older database was restored, or it was emptied or changed"
            yield charge.length, f"line {number} of the audit log records another charge: {how}"
            return
        noted.add(charge.length)
    missing = next((each for each in range(1, max(noted, default=0)) if each not in noted), None)
    if missing:
        yield missing, "the audit log has no line for this charge, but has one for a later charge"


def misplaced_members(stays: Sequence[tuple[int, int | None]], charges: int) -> Iterator[Finding]:
    """The stays that are impossible in a ledger of this length; no finding names a patient.

    Args:
        stays: from and to which length of the ledger a patient was in a cohort, in the order in
            which they are stored; None for a stay that has not ended.
        charges: the ledger's length.
    """
    for number, (since, until) in enumerate(stays, start=1):
        if not 0 <= since <= (charges if until is None else until) <= charges:
            yield number, f"a patient's stay, from charge {since} to {until}, was changed"


def changed_plans(plans: Mapping[str, str]) -> Iterator[Finding]:
    """The plans, in the order in which they are stored, that do not match their hash."""
    for number, (hash_, text) in enumerate(plans.items(), start=1):
        if sha256(text.encode()) != hash_:
            yield number, f"plan {hash_} was changed"


def _plan(hash_: str, plans: Mapping[str, str]) -> Plan | None:
    text = plans.get(hash_, "")
    try:
        return read_plan(text) if sha256(text.encode()) == hash_ else None
    except Refusal:
        return None


def _misplaced(row: ChargeRow, number: int, previous: str) -> str | None:
    # The same values, in the same order, as client.records.ledger.Ledger._append hashes.
    public = [previous, row.plan_hash, row.round, row.part, row.identity]
    if row.length != number:
        return f"this is charge {row.length}"
    if sha256(canonical_json(public)) != row.hash:
        return "the charge was changed"
    return None


def _miscounted(row: ChargeRow, plan: Plan | None) -> str | None:
    if plan is None:
        return "its cost cannot be checked: its plan is missing, was changed or cannot be read"
    event = event_of(plan, row.part)
    found = row.sampling_rate, row.noise_multiplier, row.count
    made = (event.sampling_rate, event.noise_multiplier, event.count) if event else NOTHING_BOUNDS
    return None if found == made else "its cost was changed: its plan states another"
