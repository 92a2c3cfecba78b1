"""The ledger: what has been released about each patient, and what that has cost.

A round's cost is reserved durably before training starts and committed together with the
reply, so that a crash leaves it spent (never unspent). Each charge belongs to the training
or to the validation patients of one approved plan. The account is a patient's own: it
composes every charge of every plan that the patient, known by keyed hash, ever stood in, so
that renaming, copying or relabelling a folder opens no new one.

Across studies the sum of Renyi divergences is a filter (Feldman and Zrnic 2021; Lecuyer 2021):
a charge that would pass the policy's epsilon is refused before the first gradient. The order
at which it adds up follows from the policy alone. One study alone is judged by the tighter
figure that its plan states and the approval fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from client.accounts import Account, Divergences, History, accounts, cost, enrol, leave
from client.figures import Figures
from common.accounting import SampledGaussian, filter_epsilon, filter_order
from common.errors import Refusal, RefusalCode
from common.files import canonical_json, sha256
from common.messages import LedgerHead
from common.plan import Plan, read_plan
from common.privacy import PatientMechanism

Part = Literal["train", "validation"]
LOST: Final = (
    "stop the daemon and bring back the newest state folder, whole; where it is lost, this site "
    "answers nothing any more: whoever accepts that its patients' spending is known to nobody "
    "makes a new site, under another name"
)
"""What to do where charges are missing that were made: they must not be spent again."""


@dataclass(frozen=True)
class Limits:
    """What the site's policy lets its patients lose.

    Attributes:
        epsilon_per_study: the most for one study.
        epsilon_total: the most over all studies.
        delta: with which probability the bounds may fail.
    """

    epsilon_per_study: float
    epsilon_total: float
    delta: float

    def spent(self, divergences: Divergences) -> float:
        """Epsilon of all that was released, as the filter for the total reads it."""
        order = filter_order(self.epsilon_total, self.delta)
        return filter_epsilon(divergences, self.delta, order)


@dataclass(frozen=True)
class Charge:
    """One release: event None stands for a release that nothing bounds."""

    plan_hash: str
    round: int
    part: Part
    identity: str
    event: SampledGaussian | None


class Ledger(Figures):
    """The charges of one site, in its store: what it may still spend, and what it spends.

    Args:
        store: an open store; its file is the ledger.
    """

    def require(self, seen: LedgerHead) -> None:
        """Refuse to go on where the coordinator has seen a longer or another ledger.

        Raises:
            Refusal: ``ledger-behind``: an old backup was brought back.
        """
        if self.hash_at(seen.length) != seen.hash:
            raise Refusal(
                RefusalCode.LEDGER_BEHIND,
                "the ledger is older than what this site has already sent",
                found=f"{self.head().length} charges",
                wanted=f"charge {seen.length} as the coordinator has seen it",
                remedy=LOST,
            )

    def reserve(self, charge: Charge, plan: Plan, limits: Limits) -> None:
        """Record a charge durably, before anything is computed from patients.

        A charge that is already there, from before a crash, is not made again.

        Raises:
            Refusal: ``budget``, ``round-conflict``.
        """
        with self._store.transaction():
            row = self._store.execute(
                "SELECT identity FROM charges WHERE plan_hash = ? AND round = ? AND part = ?",
                charge.plan_hash,
                charge.round,
                charge.part,
            ).fetchone()
            if row is None:
                self._refuse_overspending(charge, plan, limits)
                self._append(charge)
            elif row["identity"] != charge.identity:
                raise Refusal(
                    RefusalCode.ROUND_CONFLICT, "this round was already run with other arrays"
                )

    def commit(self, identity: str) -> None:
        """Mark a reserved charge as released; call it in the reply's transaction."""
        self._store.execute("UPDATE charges SET state = 'committed' WHERE identity = ?", identity)

    def enrol(self, plan_hash: str, patients: Mapping[str, tuple[str, ...]]) -> None:
        """Record who stands in a plan's cohort, in place of whoever stood there before.

        Members are added: who was charged stays charged. Call it in the approval's transaction.
        """
        leave(self._store, plan_hash)
        for part, pseudonyms in patients.items():
            enrol(self._store, plan_hash, part, pseudonyms)

    def refuse_unaffordable(self, plan: Plan, limits: Limits) -> None:
        """Refuse a plan whose whole cost the policy, or its patients' accounts, cannot bear.

        What the plan was charged already is a part of its whole cost. Call it after
        :meth:`enrol`, in the same transaction.

        Raises:
            Refusal: ``policy`` or ``budget``.
        """
        mechanism = plan.mechanism
        if not isinstance(mechanism, PatientMechanism):
            return
        if mechanism.epsilon > limits.epsilon_per_study:
            raise Refusal(
                RefusalCode.POLICY,
                "the study costs more than this site's policy allows for one study",
                where="[policy] max_epsilon_per_study",
                found=f"epsilon {mechanism.epsilon:.3f}",
                wanted=f"at most {limits.epsilon_per_study:g}",
            )
        for history, spent in accounts(self._store, plan.hash).items():
            self._within(spent, plan, self._after(history, spent, plan), limits)

    def forecast(self, plan: Plan, limits: Limits) -> tuple[float, float]:
        """What the most charged patient of a plan has spent today, and will when it is over.

        Both as the policy's total reads them, over all studies; call it after :meth:`enrol`.
        """
        before = after = 0.0
        for history, spent in accounts(self._store, plan.hash).items():
            before = max(before, self._read(spent.total, history, limits))
            ahead = self._after(history, spent, plan)
            after = max(after, self._judge(spent, plan, ahead, limits))
        return before, after

    def most_spent(self, limits: Limits) -> float:
        """What the most charged patient of all has spent, as the policy's total reads it."""
        rows = self._store.execute("SELECT DISTINCT plan_hash FROM charges").fetchall()
        return max(
            (
                self._read(spent.total, history, limits)
                for row in rows
                for history, spent in accounts(self._store, row["plan_hash"]).items()
            ),
            default=0.0,
        )

    def _append(self, charge: Charge) -> None:
        head, event = self.head(), charge.event
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

    def _refuse_overspending(self, charge: Charge, plan: Plan, limits: Limits) -> None:
        self._refuse_beyond_plan(charge, plan, limits)
        if charge.event is None:
            return
        for history, spent in accounts(self._store, charge.plan_hash).items():
            if (charge.plan_hash, charge.part) in history:
                after = spent.total + cost(self._store, charge.event)
                self._within(spent, plan, after, limits)

    def _refuse_beyond_plan(self, charge: Charge, plan: Plan, limits: Limits) -> None:
        """Refuse what would make a study cost more than its plan states and the policy allows."""
        if not isinstance(plan.mechanism, PatientMechanism):
            return
        (spent,) = self._store.execute(
            "SELECT coalesce(sum(count), 0) FROM charges WHERE plan_hash = ? AND part = ?",
            charge.plan_hash,
            charge.part,
        ).fetchone()
        event, whole = charge.event, _whole(plan, plan.mechanism)[charge.part]
        foreseen = (
            event is not None
            and whole is not None
            and event.sampling_rate == whole.sampling_rate
            and event.noise_multiplier == whole.noise_multiplier
            and spent + event.count <= whole.count
        )
        if not foreseen or plan.mechanism.epsilon > limits.epsilon_per_study:
            raise Refusal(
                RefusalCode.BUDGET,
                "a charge would pass what the study may cost",
                where="[policy] max_epsilon_per_study",
                found=f"epsilon {plan.mechanism.epsilon:.3f}, {spent} of its steps charged",
                wanted=f"at most {limits.epsilon_per_study:g}, and no more than the plan foresees",
            )

    def _after(self, history: History, spent: Account, plan: Plan) -> Divergences:
        """What will have been released about one kind of patient when a plan is over."""
        if not isinstance(plan.mechanism, PatientMechanism):
            return np.full_like(spent.total, math.inf)
        whole = _whole(plan, plan.mechanism)
        parts = [part for hash_, part in history if hash_ == plan.hash]
        events = [event for part, event in whole.items() if part in parts and event]
        more = [cost(self._store, event) for event in events]
        return np.asarray(np.sum([spent.others, *more], axis=0))

    def _judge(self, spent: Account, plan: Plan, after: Divergences, limits: Limits) -> float:
        epsilon = limits.spent(after)
        if not spent.others.any():  # nothing but this study was ever released about them
            epsilon = min(epsilon, plan.mechanism.epsilon)
        return epsilon

    def _read(self, total: Divergences, history: History, limits: Limits) -> float:
        """Epsilon of what was released: a single study's is at most what its plan states."""
        epsilon = limits.spent(total)
        charged = self._store.execute("SELECT DISTINCT plan_hash FROM charges").fetchall()
        plans = {hash_ for hash_, _ in history} & {row["plan_hash"] for row in charged}
        if len(plans) == 1:
            row = self._store.execute(
                "SELECT plan FROM approvals WHERE plan_hash = ?", plans.pop()
            ).fetchone()
            epsilon = min(epsilon, read_plan(row["plan"]).mechanism.epsilon)
        return epsilon

    def _within(self, spent: Account, plan: Plan, after: Divergences, limits: Limits) -> None:
        """Refuse what would take one kind of patient beyond the total."""
        epsilon = self._judge(spent, plan, after, limits)
        if epsilon > limits.epsilon_total:
            raise Refusal(
                RefusalCode.BUDGET,
                "patients of this cohort would lose more than this site's policy allows",
                where="[policy] max_epsilon_total",
                found=f"epsilon {epsilon:.3f} over all studies",
                wanted=f"at most {limits.epsilon_total:g}",
                remedy="approve a cheaper study, or decide on a higher total",
            )


def event_of(plan: Plan, part: Part) -> SampledGaussian | None:
    """What one round of a plan does to a part of its cohort; None where nothing bounds it."""
    mechanism = plan.mechanism
    if not isinstance(mechanism, PatientMechanism):
        return None
    if part == "validation":
        return mechanism.evaluation
    return _times(mechanism.step, plan.study.training.local_steps)


def _whole(plan: Plan, mechanism: PatientMechanism) -> dict[Part, SampledGaussian | None]:
    """All that a plan will ever do to each part of its cohort."""
    training = plan.study.training
    return {
        "train": _times(mechanism.step, training.rounds * training.local_steps),
        "validation": mechanism.evaluation
        and _times(mechanism.evaluation, len(plan.study.evaluation_rounds)),
    }


def _times(event: SampledGaussian, count: int) -> SampledGaussian:
    return event.model_copy(update={"count": event.count * count})
