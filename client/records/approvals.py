"""Which plans this site has approved and until when, and each study's key.

An approval binds to the hash of the whole plan, and ends on a day: a changed plan is a new one.
Its cohort is frozen afterwards (:mod:`client.records.membership`), so that a proposal is answered
before any patient is read. A plan waits, is approved or denied, and ends when a person stops it,
when it expires, or when the coordinator closes it::

    pending ──> approved ──> closed          the coordinator is done
       │           ├───────> stopped         a person ended it     ┐ silence, until it is
       └─> denied  └───────> expired         its time is over      ┘ approved again

Expiry is decided by the newest time that was ever seen, which the store keeps: setting the clock
back makes no approval last longer. An expired plan stays expired, and its key is erased
(:meth:`Approvals.expire`).

A request about a plan that is not approved any more gets no answer at all, so that nobody outside
can tell one reason from another, or from a machine that is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from client.records.store import SiteDatabase
from common.errors import Refusal, RefusalCode
from common.plan import Plan, read_plan
from common.privacy.randomness import StudyKey

State = Literal["pending", "approved", "expired", "denied", "stopped", "closed"]
POLICY: Final = "policy"
"""Recorded as who decided if no person did."""
CLOCK: Final = "clock"
"""Recorded as who decided if an approval expired."""
NEWEST_TIME: Final = "newest-time"
"""The fact that holds the newest time that was ever seen, to the minute."""
SET_BACK_DAYS: Final = 1
"""A clock that is behind by no more had a wrong time zone: the newest time counts meanwhile."""
MOST_HELD: Final = 16
"""Plans that are held in memory as they were read."""
_IGNORED: Final = "ignored-in-patient-ids "
_MINUTE: Final = len("2026-01-01T00:00")
SILENT: Final[frozenset[State]] = frozenset({"stopped", "expired"})


class Silence(Exception):  # noqa: N818 - nothing went wrong
    """The site gives no answer; the reason never leaves it."""


@dataclass(frozen=True)
class Approval:
    """One plan and what was decided about it.

    Attributes:
        plan: the plan as received.
        frozen: when its cohort was frozen; empty before that.
        decoders: what its images were decoded with then; see :mod:`client.data.cache`.
        left_out: how many patients of that day could not pay for it; never leaves the site.
        state: whether it may run.
        key: what its randomness follows from; None once the study is over.
        proposed: when the plan first came, ISO 8601 in UTC, as every time.
        decided: when its state was last decided.
        by: who decided.
        expires: when its approval ends; empty for never.
        newest: the newest time that was seen before it was read.
        ignored: the number of the rule by which its patients were told apart when its cohort was
            frozen; see :func:`client.data.pseudonyms.rule`.
    """

    plan: Plan
    frozen: str
    decoders: str
    left_out: int = field(repr=False)
    state: State
    key: StudyKey | None = field(repr=False)
    proposed: str
    decided: str
    by: str
    expires: str
    newest: str
    ignored: int = 0

    @property
    def standing(self) -> State:
        """The state, as the clock has it."""
        # By the newest time ever seen too: setting the clock back must not revive an approval.
        if self.state == "approved" and self.expires:
            return "expired" if self.expires <= max(timestamp(), self.newest) else "approved"
        return self.state


def timestamp(days: int = 0) -> str:
    """Now, or in some days, as it is stored: whole seconds, so that texts sort as times do."""
    then = datetime.now(UTC) + timedelta(days=days)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


class Approvals:
    """The approvals of one site, in its store."""

    def __init__(self, store: SiteDatabase) -> None:
        self._store = store
        self._plans: dict[str, Plan] = {}

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
        # Silence first: a code for an ended plan would tell outside that a person has ended it.
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

        An expired plan is recorded again, and its cohort must be frozen again.
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

    def freeze(self, plan_hash: str, left_out: int, decoders: str, ignored: int = 0) -> None:
        """Record that a plan's cohort is frozen, of which images, and how many could not pay."""
        self._store.drop(_IGNORED + plan_hash)
        if ignored:
            self._store.keep(_IGNORED + plan_hash, str(ignored))
        self._store.execute(
            "UPDATE approvals SET frozen_at = ?, left_out = ?, decoders = ? WHERE plan_hash = ?",
            timestamp(),
            left_out,
            decoders,
            plan_hash,
        )

    def end(self, plan_hash: str, state: State, *, by: str) -> None:
        """End a plan and erase its key: its noise can never be drawn again.

        A closed plan stays closed. Erase the store afterwards, outside a transaction.
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
        self._store.drop(_IGNORED + plan_hash)

    def expire(self) -> list[tuple[str, str]]:
        """End permanently what is over by the clock; gives plan and study of what this ended.

        If the clock was set back by more than :data:`SET_BACK_DAYS`, nobody can tell when an
        approval is over: every approval with an end is ended. Erase the store afterwards, outside
        a transaction.
        """
        with self._store.transaction():
            over = self._over()
            for plan_hash, _ in over:
                self.end(plan_hash, "expired", by=CLOCK)
            self._store.keep(NEWEST_TIME, self._now())
        return over

    def is_time(self) -> bool:
        """Whether :meth:`expire` has anything to do, which saves a write for most requests."""
        return self._now()[:_MINUTE] != self._newest()[:_MINUTE] or bool(self._over())

    def _now(self) -> str:
        """The clock's time, or the newest that was seen where the clock is behind by little."""
        return timestamp() if self._is_set_back() else max(timestamp(), self._newest())

    def _newest(self) -> str:
        return self._store.fact(NEWEST_TIME)

    def _is_set_back(self) -> bool:
        return timestamp(SET_BACK_DAYS) < self._newest()

    def _over(self) -> list[tuple[str, str]]:
        rows = self._store.execute(
            "SELECT plan_hash, study FROM approvals WHERE state = 'approved'"
            " AND expires_at IS NOT NULL AND (? OR expires_at <= ?) ORDER BY rowid",
            self._is_set_back(),
            self._now(),
        )
        return [(row["plan_hash"], row["study"]) for row in rows]

    def waiting(self) -> int:
        """How many plans wait for a person."""
        rows = self._store.execute("SELECT count(*) FROM approvals WHERE state = 'pending'")
        return int(rows.fetchone()[0])

    def running(self) -> list[Approval]:
        """The plans whose rounds may still come, in the order in which they were proposed."""
        return self._select(
            "WHERE state = 'approved' AND (expires_at IS NULL OR expires_at > ?) ORDER BY rowid",
            self._now(),
        )

    def _plan(self, text: str) -> Plan:
        """A stored plan; every gate asks for one, and most sites have few."""
        if text not in self._plans:
            if len(self._plans) == MOST_HELD:
                del self._plans[next(iter(self._plans))]
            self._plans[text] = read_plan(text)
        return self._plans[text]

    def _select(self, which: str, *values: object) -> list[Approval]:
        newest = self._newest()
        rows = self._store.execute(f"SELECT * FROM approvals {which}", *values).fetchall()  # noqa: S608 - no value in it
        return [
            Approval(
                plan=self._plan(row["plan"]),
                frozen=row["frozen_at"],
                decoders=row["decoders"],
                left_out=row["left_out"],
                state=row["state"],
                key=StudyKey(row["study_key"]) if row["study_key"] else None,
                proposed=row["proposed_at"],
                decided=row["decided_at"],
                by=row["decided_by"],
                expires=row["expires_at"] or "",
                newest=newest,
                ignored=int(self._store.fact(_IGNORED + row["plan_hash"]) or 0),
            )
            for row in rows
        ]
