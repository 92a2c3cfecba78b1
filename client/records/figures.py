"""The figures of the privacy ledger, read only: its length, what was charged, what was spent.

Nothing here decides: :class:`client.records.ledger.Ledger` decides about charges, and
:mod:`client.records.membership` about patients.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

from client.records.accounts import Accounts, History, Part, PrivacyLimits, cost, stated
from client.records.store import SiteDatabase
from common.plan import Plan
from common.privacy.accounting import SampledGaussian, renyi_epsilon
from common.privacy.mechanisms import PatientMechanism
from common.wire.messages import HASH_OF_NOTHING, LedgerHead


class LedgerFigures:
    """The figures of one site's ledger, in its store.

    Args:
        store: an open store; its file is the ledger.
    """

    def __init__(self, store: SiteDatabase) -> None:
        self._store = store

    def head(self) -> LedgerHead:
        """How many charges there are, and the hash over all of them.

        It covers public values only: it is sent with every reply.
        """
        row = self._store.execute(
            "SELECT length, hash FROM charges ORDER BY length DESC LIMIT 1"
        ).fetchone()
        return LedgerHead(row["length"], row["hash"]) if row else LedgerHead()

    def hash_at(self, length: int) -> str | None:
        """The hash that the head had at a length; None beyond the end."""
        if length == 0:
            return HASH_OF_NOTHING
        row = self._store.execute("SELECT hash FROM charges WHERE length = ?", length).fetchone()
        return row["hash"] if row else None

    def last_round(self, plan_hash: str, part: str) -> int:
        """The highest round charged to a part of a plan's cohort; 0 before any."""
        row = self._store.execute(
            "SELECT max(round) AS last FROM charges WHERE plan_hash = ? AND part = ?",
            plan_hash,
            part,
        ).fetchone()
        return int(row["last"] or 0)

    def is_charged(self, identity: str) -> bool:
        """Whether the release with this identity has been reserved, or made."""
        row = self._store.execute("SELECT 1 FROM charges WHERE identity = ?", identity).fetchone()
        return row is not None

    def is_committed(self, identity: str) -> bool:
        """Whether the release with this identity has been made."""
        row = self._store.execute(
            "SELECT 1 FROM charges WHERE identity = ? AND state = 'committed'", identity
        ).fetchone()
        return row is not None

    def cost_of(self, identity: str, delta: float) -> float:
        """Epsilon of one release alone; 0 where nothing was charged for it."""
        row = self._store.execute("SELECT * FROM charges WHERE identity = ?", identity).fetchone()
        if row is None:
            return 0.0
        if row["sampling_rate"] is None:
            return math.inf
        names = ("sampling_rate", "noise_multiplier", "count")
        event = SampledGaussian(**{name: row[name] for name in names})
        return renyi_epsilon(cost(self._store, event), delta)

    def members(self, plan_hash: str) -> dict[str, int]:
        """How many patients are in each part of a plan's cohort now; it never leaves the site."""
        rows = self._store.execute(
            "SELECT part, count(*) AS count FROM members WHERE plan_hash = ? AND until IS NULL"
            " GROUP BY part",
            plan_hash,
        )
        return {row["part"]: row["count"] for row in rows}

    def progress(self, plan_hash: str) -> Counter[tuple[str, str]]:
        """How many charges a plan has, by part and by state (reserved, committed)."""
        rows = self._store.execute(
            "SELECT part, state, count(*) AS count FROM charges WHERE plan_hash = ?"
            " GROUP BY part, state",
            plan_hash,
        )
        return Counter({(row["part"], row["state"]): row["count"] for row in rows})

    def charged_to(self, plan: Plan, part: Part) -> float:
        """Epsilon of all that a plan has charged to a part: a public figure, for any patients."""
        if not isinstance(plan.mechanism, PatientMechanism):
            return math.inf if self.last_round(plan.hash, part) else 0.0
        rows = self._store.execute(
            "SELECT sampling_rate, noise_multiplier, sum(count) AS count FROM charges"
            " WHERE plan_hash = ? AND part = ? GROUP BY sampling_rate, noise_multiplier",
            plan.hash,
            part,
        )
        total = sum(cost(self._store, SampledGaussian(**dict(row))) for row in rows.fetchall())
        if isinstance(total, int):  # the sum of no rows
            return 0.0
        # Both are upper bounds: Renyi for what was charged, and the tighter PLD for the whole plan.
        return min(renyi_epsilon(total, plan.mechanism.composed_delta), stated(plan, part))

    def spent_on(self, plan: Plan, accounts: Accounts | None = None) -> float:
        """Epsilon that a plan has cost the patient whom it cost most, of this plan alone.

        A patient who was in both parts of it, one after the other, has paid both, composed.

        Args:
            plan: which plan.
            accounts: if they were read already.
        """
        accounts = accounts or Accounts(self._store)
        # Without a mechanism any delta will do: divergences are infinite, or zero.
        delta, most = getattr(plan.mechanism, "composed_delta", 0.5), 0.0
        for history in accounts.histories_in(plan.hash):
            epsilon = renyi_epsilon(accounts.paid(history), delta)
            places = accounts.places(history)
            if len(places) == 1 and is_single(history):
                epsilon = min(epsilon, *(stated(plan, part) for _, part in places))
            most = max(most, epsilon)
        return most

    def most_spent(self, limits: PrivacyLimits) -> float:
        """What the most charged patient of all has spent, as counted for the policy's total."""
        accounts = Accounts(self._store)
        return max((read(accounts, each, limits) for each in accounts.histories()), default=0.0)

    def charges(self, after: int = 0) -> list[dict[str, Any]]:
        """Every charge beyond a length of the ledger, oldest first, as plain values."""
        rows = self._store.execute(
            "SELECT * FROM charges WHERE length > ? ORDER BY length", after
        ).fetchall()
        return [dict(row) for row in rows]


def read(accounts: Accounts, history: History, limits: PrivacyLimits) -> float:
    """Epsilon of all that a patient has paid, as counted for the policy's total.

    If one part of one plan is all there is, it is at most what that plan states.
    """
    epsilon, places = limits.spent(accounts.paid(history)), accounts.places(history)
    if len(places) == 1 and is_single(history):
        ((plan_hash, part),) = places
        epsilon = min(epsilon, stated(accounts.plan(plan_hash), part))
    return epsilon


def paid_and_ahead(
    accounts: Accounts, plan: Plan, history: History, part: Part, limits: PrivacyLimits
) -> tuple[float, float]:
    """Epsilon of all that a patient has paid, and will have when all that runs is over."""
    others = accounts.reserved(history, without=plan.hash)
    after = limits.spent(accounts.paid(history) + others + accounts.remaining(plan, part))
    alone = accounts.places(history) <= {(plan.hash, part)} and is_single(history)
    if alone and not others.any():  # nothing but this part of this plan is or will be released
        after = min(after, stated(plan, part))
    return read(accounts, history, limits), after


def cost_of_plan(accounts: Accounts, plan: Plan, history: History, part: Part) -> float:
    """Epsilon that this plan alone will have cost a patient when it is over.

    More than the plan states if the patient was in its other part before.
    """
    here = tuple(stay for stay in history if stay.plan_hash == plan.hash)
    if accounts.places(here) <= {(plan.hash, part)} and is_single(here):
        return stated(plan, part)
    whole = accounts.paid(here) + accounts.remaining(plan, part)
    return renyi_epsilon(whole, getattr(plan.mechanism, "composed_delta", 0.5))


def is_single(history: History) -> bool:
    """Whether no two stays are in one part of a plan at a time: one person, and not two."""
    return all(one[:2] != other[:2] or one.until <= other.since for one, other in pairwise(history))
