"""The audit log's own chain: is each line signed, in its place, and the one after the line before?

Nothing but the log and the site's public key is needed for it. The ledger is counted again
beside it: is each charge the one that was made, at what its plan costs? A charge's hash covers
which round of which plan it was for, and the charge before it. What it cost, from which the
accounts are added up, follows from the plan, and the plan from the hash that it is stored under.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from client.records.accounts import Part, event_of
from client.records.audit_log import signed_part
from common.documents import read_json
from common.errors import Refusal
from common.files import canonical_json, sha256
from common.plan import Plan, read_plan
from common.wire.messages import HASH_OF_NOTHING
from common.wire.signing import verify

_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


def breaks(lines: Sequence[bytes], hashes: Sequence[str], key: str) -> list[Finding]:
    """Each break of the chain once: what follows a break and holds together is not named.

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
            what = "it is no entry of an audit log"
        elif not sound:
            what, foreign = "it was changed, or another site signed it", foreign + 1
        elif entry["number"] != before + 1:
            what = _gap(entry["number"], number, before)
        elif previous_is_sound and entry["previous"] != hashes[number - 1]:
            # What a changed line is followed by names the hash that it had before.
            what = "it follows another line than the one before it"
        if what:
            found.append((number, what))
        before = entry["number"] if entry and sound else before + 1
        previous_is_sound = sound
    if len(lines) > 1 and foreign == len(lines):
        return [(1, "no line is signed by this site: the log is another site's")]
    return found


def entry_of(line: bytes) -> dict[str, Any] | None:
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


def is_signed(entry: dict[str, Any], key: str) -> bool:
    """Whether the site has signed an entry."""
    signature = entry["signature"]
    if _SIGNATURE.fullmatch(signature) is None:
        return False
    return verify(key, signed_part(entry), bytes.fromhex(signature))


def is_sound(line: bytes, key: str) -> bool:
    """Whether a line is an entry that the site has signed."""
    entry = entry_of(line)
    return entry is not None and is_signed(entry, key)


def ends_changed(tail: bytes) -> bool:
    """Whether what stands after the last line's end is a line whose end was changed.

    What a crash leaves is the beginning of a line; a whole one with more behind it is not.
    """
    text = tail.decode("latin-1")  # the beginning of a line may end within a character
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return len(text) > end


def _gap(found: int, number: int, before: int) -> str:
    if found > before + 1:
        return f"one or more lines are missing before line {number}: entry {found} stands here"
    return f"entry {found} stands here: lines were removed, added or moved"


Finding = tuple[int, str]
"""A row, counted from 1, and what is wrong with it."""
NOTHING_BOUNDS = (None, None, 1)
"""What stands for the cost of a release that no mechanism protects."""


@dataclass(frozen=True)
class ChargeRow:
    """A charge as it stands in the store: its public part, and what it cost."""

    length: int
    hash: str
    plan_hash: str
    round: int
    part: Part
    identity: str
    sampling_rate: float | None
    noise_multiplier: float | None
    count: int


def recount(charges: Sequence[ChargeRow], plans: Mapping[str, str]) -> Iterator[Finding]:
    """What is not as it was charged.

    Args:
        charges: the ledger, oldest first.
        plans: text of each plan by the hash that it is stored under.
    """
    plan_of = cache(lambda hash_: _plan(hash_, plans))
    broken = dict(broken_chain(charges))
    for number, row in enumerate(charges, start=1):
        what = broken.get(number) or _miscounted(row, plan_of(row.plan_hash))
        if what:
            yield number, what


def broken_chain(charges: Sequence[ChargeRow]) -> Iterator[Finding]:
    """The charges that do not follow the one before, whatever they cost.

    Args:
        charges: the ledger, oldest first.
    """
    previous = HASH_OF_NOTHING
    for number, row in enumerate(charges, start=1):
        what = _misplaced(row, number, previous)
        if what:
            yield number, what
        previous = row.hash


def misplaced_members(stays: Sequence[tuple[int, int | None]], charges: int) -> Iterator[Finding]:
    """The stays that no ledger of this length can hold: whose they are, no finding says.

    Args:
        stays: from and to which length of the ledger a patient was in a cohort, in the order in
            which they are stored; None for a stay that has not ended.
        charges: the ledger's length.
    """
    for number, (since, until) in enumerate(stays, start=1):
        if not 0 <= since <= (charges if until is None else until) <= charges:
            yield number, f"a patient's stay, from charge {since} to {until}, was changed"


def changed_plans(plans: Mapping[str, str]) -> Iterator[Finding]:
    """The plans, in the order in which they are stored, that their hash does not name."""
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
    public = [previous, row.plan_hash, row.round, row.part, row.identity]
    if row.length != number:
        return f"charge {row.length} stands here"
    if sha256(canonical_json(public)) != row.hash:
        return "the charge was changed"
    return None


def _miscounted(row: ChargeRow, plan: Plan | None) -> str | None:
    if plan is None:
        return "what it cost cannot be told: its plan is missing, was changed or cannot be read"
    event = event_of(plan, row.part)
    found = row.sampling_rate, row.noise_multiplier, row.count
    made = (event.sampling_rate, event.noise_multiplier, event.count) if event else NOTHING_BOUNDS
    return None if found == made else "what it cost was changed: its plan says otherwise"
