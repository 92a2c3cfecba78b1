"""The ledger: what has been released, round by round, in the order in which it was.

A round's cost is reserved durably before training starts and committed together with the
reply, so that a crash leaves it spent (never unspent). Each charge belongs to a part of one
approved plan, and is made alike whoever stands there, or nobody: it follows from the plan
alone. So the ledger's head, which goes out with every reply, tells nothing of a patient.

Whom a charge has cost something is :mod:`client.records.accounts`; who may stand in a plan at
all, so that no charge ever takes anybody beyond the policy, is :mod:`client.records.membership`.
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
    """One release: event None stands for a release that nothing bounds."""

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
        """Refuse to go on where the coordinator says that it has seen a longer or another ledger.

        It need not be true, and ends nothing: a receipt over what this site has sealed would show
        it, and was held against what is here before (:mod:`client.records.receipts`).

        Raises:
            Refusal: ``ledger-behind``: an old backup was brought back, or that is what it says.
        """
        if self.hash_at(seen.length) != seen.hash:
            raise Refusal(
                RefusalCode.LEDGER_BEHIND,
                "the coordinator says that this site had another ledger",
                found=f"{self.head().length} charges",
                wanted=f"charge {seen.length} as the coordinator says it has seen it",
                remedy="if an older state folder was brought back, bring back the newest, whole; "
                "if none was, nothing is lost here: ask the coordinator what it has seen",
            )

    def require_chargeable(self, charge: Charge, plan: Plan) -> None:
        """Refuse a charge that the plan does not foresee, or a round that had other arrays.

        Nobody's account is looked at: who stands in the plan can pay for all of it.

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
        elif row["identity"] != charge.identity:
            raise Refusal(
                RefusalCode.ROUND_CONFLICT, "this round was already run with other arrays"
            )

    def reserve(self, charge: Charge, plan: Plan) -> None:
        """Record a charge durably, before anything is computed from patients.

        A charge that is already there, from before a crash, is not made again.

        Raises:
            Refusal: as :meth:`require_chargeable`.
        """
        with self._store.transaction():
            self.require_chargeable(charge, plan)
            if not self.is_charged(charge.identity):
                self._append(charge)

    def commit(self, identity: str) -> None:
        """Mark a reserved charge as released; call it in the reply's transaction."""
        self._store.execute("UPDATE charges SET state = 'committed' WHERE identity = ?", identity)

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

    def _refuse_beyond_plan(self, charge: Charge, plan: Plan) -> None:
        """Refuse what would make a study do more than its plan states."""
        (spent,) = self._store.execute(
            "SELECT coalesce(sum(count), 0) FROM charges WHERE plan_hash = ? AND part = ?",
            charge.plan_hash,
            charge.part,
        ).fetchone()
        event, whole = event_of(plan, charge.part), foreseen(plan, charge.part)
        within = whole is not None and spent + (event.count if event else 1) <= whole
        if charge.event != event or not within:
            raise Refusal(
                RefusalCode.ROUND_OUT_OF_ORDER,
                "a charge would be more than the plan foresees",
                found=f"{spent} of its steps charged",
                wanted=f"{whole} in all, with the plan's own noise and sampling",
            )
