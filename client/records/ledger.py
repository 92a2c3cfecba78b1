"""The privacy ledger: what has been released, round by round, in order.

A round's cost is reserved durably before training starts and committed together with the reply,
so after a crash it counts as spent, never as unspent. Each charge belongs to a part of one
approved plan and follows from the plan alone, whichever patients are in the cohort, even none. So
the ledger's head, which goes out with every reply, tells nothing about a patient.

Which patients paid for a charge is in :mod:`client.records.accounts`; which may be in a plan, so
that no charge takes a patient beyond the policy, in :mod:`client.records.membership`.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.records.accounts import Part, event_of, foreseen
from client.records.figures import LedgerFigures
from common.errors import Refusal, RefusalCode
from common.files import canonical_json, sha256
from common.plan import Plan
from common.privacy.accounting import SampledGaussian
from common.wire.messages import LedgerHead


@dataclass(frozen=True)
class Charge:
    """One release; ``event`` is None for a release without privacy protection."""

    plan_hash: str
    round: int
    part: Part
    identity: str
    event: SampledGaussian | None


class Ledger(LedgerFigures):
    """The charges of one site, in its store.

    Args:
        store: an open store; its file is the ledger.
    """

    def require(self, seen: LedgerHead) -> None:
        """Refuse if the coordinator says that it has seen a longer or another ledger.

        Its word alone proves nothing and ends nothing. A receipt over what this site has sealed
        would prove it, and was checked before (:mod:`client.records.receipts`).

        Raises:
            Refusal: ``ledger-behind``: an old backup was restored, or the coordinator says so.
        """
        if self.hash_at(seen.length) != seen.hash:
            raise Refusal(
                RefusalCode.LEDGER_BEHIND,
                "the coordinator says that this site had another privacy ledger",
                found=f"{self.head().length} charges",
                wanted=f"charge {seen.length}, as the coordinator says it has seen it",
                remedy="if an older backup was restored here, stop the daemon and restore the "
                "latest full backup; if not, nothing is lost: ask the coordinator what it has seen",
            )

    def require_chargeable(self, charge: Charge, plan: Plan) -> None:
        """Refuse a charge that is not in the plan, or a round that had other arrays.

        No account is looked at: each patient in the plan can pay for all of it.

        Raises:
            Refusal: ``round-conflict`` or ``round-out-of-order``.
        """
        row = self._store.execute(
            "SELECT identity FROM charges WHERE plan_hash = ? AND round = ? AND part = ?",
            charge.plan_hash,
            charge.round,
            charge.part,
        ).fetchone()
        if row is None:
            self._refuse_beyond_plan(charge, plan)
        # The identity covers the arrays. Two different releases for one charge would cost twice.
        elif row["identity"] != charge.identity:
            raise Refusal(
                RefusalCode.ROUND_CONFLICT,
                "this round was already run with other weights or arrays",
            )

    def reserve(self, charge: Charge, plan: Plan) -> None:
        """Record a charge durably, before anything is computed from patients.

        A charge that already exists, from before a crash, is not made twice.

        Raises:
            Refusal: as :meth:`require_chargeable`.
        """
        # Checked again under the write lock: another process may have charged since the gate.
        with self._store.transaction():
            self.require_chargeable(charge, plan)
            if not self.is_charged(charge.identity):
                self._append(charge)

    def go_on(self, plan: Plan, head: LedgerHead, trained: int, evaluated: int) -> None:
        """Begin a ledger where another copy of it was: a simulation's, whose records are in memory.

        Each part gets one charge that stands for all of its rounds so far.

        Args:
            plan: that all charges were made for.
            head: of the other copy.
            trained: its last round of training; 0 for none.
            evaluated: the round of its last evaluation; -1 for none.
        """
        evaluations = sum(each <= evaluated for each in plan.study.evaluation_rounds)
        parts: tuple[tuple[Part, int, int], ...] = (
            ("train", trained, trained),
            ("validation", evaluated, evaluations),
        )
        done = [each for each in parts if each[2]][: head.length]
        rows = []
        for place, (part, number, times) in enumerate(done):
            event = event_of(plan, part)
            rows.append(
                (
                    head.length - place,
                    "" if place else head.hash,
                    plan.hash,
                    number,
                    part,
                    f"earlier {part}",
                    event.sampling_rate if event else None,
                    event.noise_multiplier if event else None,
                    (event.count if event else 1) * times,
                )
            )
        self._store.execute("PRAGMA foreign_keys = OFF")  # the plan is proposed again later
        # What stood for fewer rounds: a run that went on may lose a site once more.
        self._store.execute("DELETE FROM charges WHERE plan_hash = ?", plan.hash)
        self._store.execute_each(
            "INSERT INTO charges (length, hash, plan_hash, round, part, identity,"
            " sampling_rate, noise_multiplier, count, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'committed')",
            rows,
        )
        self._store.execute("PRAGMA foreign_keys = ON")

    def commit(self, identity: str) -> None:
        """Mark a reserved charge as released; call it in the reply's transaction."""
        self._store.execute("UPDATE charges SET state = 'committed' WHERE identity = ?", identity)

    def _append(self, charge: Charge) -> None:
        head, event = self.head(), charge.event
        # Public values only: whoever knows the requests can compute this hash, so it tells nothing.
        # The cost is not hashed; it is checked against the plan (client.records.chain).
        public = [head.hash, charge.plan_hash, charge.round, charge.part, charge.identity]
        self._store.execute(
            "INSERT INTO charges (length, hash, plan_hash, round, part, identity,"
            " sampling_rate, noise_multiplier, count, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved')",
            head.length + 1,
            sha256(canonical_json(public)),
            charge.plan_hash,
            charge.round,
            charge.part,
            charge.identity,
            event.sampling_rate if event else None,
            event.noise_multiplier if event else None,
            event.count if event else 1,
        )

    def _refuse_beyond_plan(self, charge: Charge, plan: Plan) -> None:
        """Refuse what would make a study do more than its plan states."""
        (spent,) = self._store.execute(
            "SELECT coalesce(sum(count), 0) FROM charges WHERE plan_hash = ? AND part = ?",
            charge.plan_hash,
            charge.part,
        ).fetchone()
        # The plan's own event, not only its count: less noise would be another release.
        event, whole = event_of(plan, charge.part), foreseen(plan, charge.part)
        within = whole is not None and spent + (event.count if event else 1) <= whole
        if charge.event != event or not within:
            raise Refusal(
                RefusalCode.ROUND_OUT_OF_ORDER,
                "the charge is not in the plan, or is more than the plan allows",
                found=f"{spent} of its steps charged already",
                wanted=f"at most {whole} in total, with the plan's own noise and sampling",
            )
