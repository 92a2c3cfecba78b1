"""Counting a ledger again: is each charge the one that was made, at what its plan costs?

A charge's hash covers which round of which plan it was for, and the charge before it. What it
cost, from which the accounts are added up, stands beside that: it follows from the plan, and
the plan from the hash that it is stored under.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from client.records.accounts import Part, event_of
from common.errors import Refusal
from common.files import canonical_json, sha256
from common.plan import Plan, read_plan
from common.wire.messages import HASH_OF_NOTHING

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
