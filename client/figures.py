"""What the ledger says, read only: how far it has come, who stands in it, what was spent.

Nothing here decides; :class:`client.ledger.Ledger` does.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from client.accounts import accounts, cost
from client.store import Store
from common.accounting import SampledGaussian, renyi_epsilon
from common.messages import HASH_OF_NOTHING, LedgerHead
from common.plan import Plan
from common.privacy import PatientMechanism


class Figures:
    """The figures of one site's ledger, in its store.

    Args:
        store: an open store; its file is the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clear: tuple[frozenset[str], tuple[object, ...]] | None = None

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

    def is_committed(self, identity: str) -> bool:
        """Whether the release with this identity has been made."""
        row = self._store.execute(
            "SELECT 1 FROM charges WHERE identity = ? AND state = 'committed'", identity
        ).fetchone()
        return row is not None

    def spent(self, plan_hash: str, delta: float) -> float:
        """The largest epsilon over the accounts of a plan's patients, over all studies.

        It is what was released so far, as if it had been fixed beforehand.
        """
        spent = accounts(self._store, plan_hash).values()
        return max((renyi_epsilon(account.total, delta) for account in spent), default=0.0)

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
        """How many patients stand in each part of a plan's cohort now; it never leaves."""
        rows = self._store.execute(
            "SELECT part, count(*) AS count FROM members WHERE plan_hash = ? AND present"
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

    def spent_on(self, plan: Plan) -> float:
        """Epsilon that a plan has cost the patient whom it cost most, of this plan alone."""
        if not isinstance(plan.mechanism, PatientMechanism):
            return math.inf if self.progress(plan.hash) else 0.0
        rows = self._store.execute(
            "SELECT part, sampling_rate, noise_multiplier, sum(count) AS count FROM charges"
            " WHERE plan_hash = ? GROUP BY part, sampling_rate, noise_multiplier",
            plan.hash,
        ).fetchall()
        names = ("sampling_rate", "noise_multiplier", "count")
        events = [SampledGaussian(**{name: row[name] for name in names}) for row in rows]
        delta = plan.mechanism.delta
        each = (renyi_epsilon(cost(self._store, event), delta) for event in events)
        return min(max(each, default=0.0), plan.mechanism.epsilon)

    def plans_with(self, patients: frozenset[str]) -> list[str]:
        """The approved plans in whose cohort one of these stands now, by hash."""
        rows = self._store.execute(
            "SELECT plan_hash, decided_at FROM approvals WHERE state = 'approved'"
        ).fetchall()
        question = patients, tuple(map(tuple, rows))
        if not patients or question == self._clear:
            return []
        found = {
            row["plan_hash"]
            for row in self._store.execute(
                "SELECT plan_hash, patient FROM members JOIN approvals USING (plan_hash)"
                " WHERE state = 'approved' AND present"
            )
            if row["patient"] in patients
        }
        self._clear = None if found else question
        return sorted(found)

    def charges(self) -> list[dict[str, Any]]:
        """Every charge, oldest first, as plain values."""
        rows = self._store.execute("SELECT * FROM charges ORDER BY length").fetchall()
        return [dict(row) for row in rows]
