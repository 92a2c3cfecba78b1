"""Which plans this site has approved, for which cohort, and each study's key.

An approval binds to the hash of the whole plan: a changed plan is a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from client.store import Store
from common.errors import Refusal, RefusalCode
from common.plan import Plan, read_plan
from common.randomness import StudyKey


@dataclass(frozen=True)
class Approval:
    """One plan and what was decided about it.

    Attributes:
        plan: the plan as received.
        cohort: fingerprint of the patients that it may use; never leaves the site.
        state: whether it may run.
        key: what its randomness follows from; None once the study is closed.
    """

    plan: Plan
    cohort: str
    state: Literal["pending", "approved", "closed"]
    key: StudyKey | None = field(repr=False)


class Approvals:
    """The approvals of one site, in its store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, plan_hash: str) -> Approval | None:
        """The approval of a plan, in whatever state; None where it was never proposed."""
        row = self._store.execute(
            "SELECT * FROM approvals WHERE plan_hash = ?", plan_hash
        ).fetchone()
        if row is None:
            return None
        key = row["study_key"]
        return Approval(
            plan=read_plan(row["plan"]),
            cohort=row["cohort"],
            state=row["state"],
            key=StudyKey(key) if key else None,
        )

    def require(self, plan_hash: str) -> Approval:
        """The approval of a plan that may run.

        Raises:
            Refusal: ``not-approved``.
        """
        approval = self.find(plan_hash)
        if approval is None or approval.state != "approved" or approval.key is None:
            state = approval.state if approval else "never proposed"
            raise Refusal(
                RefusalCode.NOT_APPROVED, "the plan is not approved", found=state, wanted="approved"
            )
        return approval

    def add(self, plan: Plan, cohort: str, key: StudyKey | None) -> None:
        """Record a plan: approved where it has a key, else waiting for a person."""
        self._store.execute(
            "INSERT INTO approvals (plan_hash, study, plan, cohort, study_key, state)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            plan.hash,
            plan.study.study.name,
            plan.text,
            cohort,
            key.secret if key else None,
            "approved" if key else "pending",
        )

    def close(self, plan_hash: str) -> None:
        """End a study and erase its key: its noise can never be drawn again."""
        self._store.execute(
            "UPDATE approvals SET state = 'closed', study_key = NULL WHERE plan_hash = ?",
            plan_hash,
        )
