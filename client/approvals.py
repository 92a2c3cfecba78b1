"""Which plans this site has approved and until when, and each study's key.

An approval binds to the hash of the whole plan, and ends on a day: a changed plan is a new one.
Its cohort is frozen afterwards (:mod:`client.membership`), so that the answer to a proposal is
there before any patient is read. A plan waits, is approved or denied, and ends by being
stopped, by its expiry or by the coordinator's own word::

    pending ──> approved ──> closed          the coordinator is done
       │           ├───────> stopped         a person ended it     ┐ silence, until it is
       └─> denied  └───────> (expired)       its time is over      ┘ approved anew

Who asks about a plan that was approved and is not any more gets no answer at all, so that
nobody outside can tell one reason from another, nor from a machine that is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from client.store import Store
from common.errors import Refusal, RefusalCode
from common.plan import Plan, read_plan
from common.randomness import StudyKey

State = Literal["pending", "approved", "denied", "stopped", "closed"]
Standing = State | Literal["expired"]
POLICY: Final = "policy"
"""Who decided where no person did."""
SILENT: Final[frozenset[Standing]] = frozenset({"stopped", "expired"})


class Silence(Exception):  # noqa: N818 - nothing went wrong
    """The site gives no answer; what it says stays here."""


@dataclass(frozen=True)
class Approval:
    """One plan and what was decided about it.

    Attributes:
        plan: the plan as received.
        frozen: when its cohort was frozen; empty before that.
        left_out: how many patients of that day could not pay for it; never leaves the site.
        state: whether it may run.
        key: what its randomness follows from; None once the study is over.
        proposed: when the plan first came, ISO 8601 in UTC, as every time.
        decided: when its state was last decided.
        by: who decided.
        expires: when its approval ends; empty for never.
    """

    plan: Plan
    frozen: str
    left_out: int = field(repr=False)
    state: State
    key: StudyKey | None = field(repr=False)
    proposed: str
    decided: str
    by: str
    expires: str

    @property
    def standing(self) -> Standing:
        """The state, as the clock has it."""
        if self.state == "approved" and self.expires and self.expires <= timestamp():
            return "expired"
        return self.state


def timestamp(days: int = 0) -> str:
    """Now, or in some days, as it is stored: whole seconds, so that texts sort as times do."""
    then = datetime.now(UTC) + timedelta(days=days)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


class Approvals:
    """The approvals of one site, in its store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, plan_hash: str) -> Approval | None:
        """The approval of a plan, in whatever state; None where it was never proposed."""
        found = self._select("WHERE plan_hash = ?", plan_hash)
        return found[0] if found else None

    def all(self) -> list[Approval]:
        """Every plan that was ever proposed, oldest first."""
        return self._select("ORDER BY proposed_at, rowid")

    def require(self, plan_hash: str) -> Approval:
        """The approval of a plan that may run.

        Raises:
            Silence: it was approved and is not any more.
            Refusal: ``not-approved``, ``pending`` or ``denied``.
        """
        approval = self.find(plan_hash)
        standing = approval.standing if approval else "never proposed"
        if approval is not None and standing == "approved" and approval.key is not None:
            return approval
        self.require_heard(plan_hash)
        codes = {"pending": RefusalCode.PENDING, "denied": RefusalCode.DENIED}
        raise Refusal(
            codes.get(standing, RefusalCode.NOT_APPROVED),
            "the plan is not approved",
            found=standing,
            wanted="approved",
        )

    def require_heard(self, plan_hash: str, *, proposed: bool = False) -> None:
        """Be silent about a plan whose approval ended.

        Args:
            plan_hash: which plan.
            proposed: whether it comes as a proposal, which an expired plan may be again.

        Raises:
            Silence: it was approved and is not any more.
        """
        approval = self.find(plan_hash)
        if approval is None or approval.standing not in SILENT:
            return
        if not (proposed and approval.standing == "expired"):
            raise Silence(approval.standing)

    def add(
        self, plan: Plan, key: StudyKey | None = None, *, by: str = POLICY, expires: str = ""
    ) -> None:
        """Record a proposal: approved where it has a key, else waiting for a person.

        A plan that expired is recorded anew, and its cohort is to be frozen anew.
        """
        self._store.execute(
            "INSERT INTO approvals (plan_hash, study, plan, study_key, state, decided_by,"
            " expires_at) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " study_key = excluded.study_key, state = excluded.state, frozen_at = '',"
            " decided_by = excluded.decided_by, expires_at = excluded.expires_at, decided_at = ?",
            plan.hash,
            plan.study.study.name,
            plan.text,
            key.secret if key else None,
            "approved" if key else "pending",
            by if key else "",
            expires or None,
            timestamp(),
        )

    def freeze(self, plan_hash: str, left_out: int) -> None:
        """Record that a plan's cohort is frozen, and how many could not pay for it."""
        self._store.execute(
            "UPDATE approvals SET frozen_at = ?, left_out = ? WHERE plan_hash = ?",
            timestamp(),
            left_out,
            plan_hash,
        )

    def end(self, plan_hash: str, state: State, *, by: str) -> None:
        """End a plan and erase its key: its noise can never be drawn again.

        What is closed stays closed. Erase the store afterwards, outside a transaction.
        """
        self._store.execute(
            "UPDATE approvals SET state = ?, study_key = NULL, decided_by = ?, decided_at = ?"
            " WHERE plan_hash = ? AND state != 'closed'",
            state,
            by,
            timestamp(),
            plan_hash,
        )

    def close(self, plan_hash: str) -> None:
        """End a study that its coordinator is done with."""
        self.end(plan_hash, "closed", by="coordinator")

    def forget(self, plan_hash: str) -> None:
        """Keep nothing of a plan; nothing else in the store may speak of it."""
        self._store.execute("DELETE FROM approvals WHERE plan_hash = ?", plan_hash)

    def waiting(self) -> int:
        """How many plans wait for a person."""
        rows = self._store.execute("SELECT count(*) FROM approvals WHERE state = 'pending'")
        return int(rows.fetchone()[0])

    def running(self) -> list[Approval]:
        """The plans whose rounds may still come, in the order in which they were proposed."""
        return self._select(
            "WHERE state = 'approved' AND (expires_at IS NULL OR expires_at > ?) ORDER BY rowid",
            timestamp(),
        )

    def _select(self, which: str, *values: object) -> list[Approval]:
        rows = self._store.execute(f"SELECT * FROM approvals {which}", *values).fetchall()  # noqa: S608 - no value in it
        return [
            Approval(
                plan=read_plan(row["plan"]),
                frozen=row["frozen_at"],
                left_out=row["left_out"],
                state=row["state"],
                key=StudyKey(row["study_key"]) if row["study_key"] else None,
                proposed=row["proposed_at"],
                decided=row["decided_at"],
                by=row["decided_by"],
                expires=row["expires_at"] or "",
            )
            for row in rows
        ]
