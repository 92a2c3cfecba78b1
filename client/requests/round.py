"""A round: who is in it, who pays, what is computed, and what leaves.

Everything here follows from patients, so nothing here has a code: whatever fails is silence
(:mod:`client.requests.handler`). The order is the guarantee: the charge is durable before anything
is computed, and the reply leaves only if the approval still holds when it is stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import structlog

from client.consent import amendments
from client.consent.decisions import freeze
from client.consent.features import are_due, featured, tick
from client.data.cohort import Cohort, Patient
from client.records import membership
from client.records.approvals import Approval, Silence
from client.requests import egress
from client.requests.gates import Due
from client.site import Site
from client.training.evaluation import counted, release
from client.training.local import local_change
from client.training.sampling import RoundStreams
from common.privacy.randomness import derive
from common.process.killpoints import reach
from common.wire.messages import Reply, Request

log = structlog.get_logger(__name__)


def compute(site: Site, request: Request, due: Due) -> Reply:
    """Charge a round, compute it from patients, and store the signed reply.

    Raises:
        Silence: a person or another process decided otherwise meanwhile.
        Exception: whatever fails; nothing of it may be told to the coordinator.
    """
    plan, charge = due.approval.plan, due.charge
    # Before the first file is opened: the time that it takes would tell of its patient.
    site.pace.begin(due.arithmetic.numerics.ticks.of(charge.part))
    on_features = due.probed.study is not plan.study
    if on_features and are_due(site, due.approval):
        site.pace.begin(tick(site, plan))
    cohort, patients = _begin(site, due)
    reach("charge.committed", request.round)
    # After the charge: a log that names a charge which the store lacks looks like a store that
    # was put back from an older copy.
    site.records.note_charges()
    site.replies.acknowledge(plan.hash, request.acknowledged)
    reach("reservation.made", request.round)
    if on_features:
        cohort = featured(site, site.approvals.require(plan.hash), cohort, patients)
        paying = {each.pseudonym for each in patients}
        patients = tuple(each for each in cohort.patients if each.pseudonym in paying)
    arrays = _arrays(request, due, cohort, patients)
    unsigned = egress.answer(request, site.name, *site.records.heads(), arrays=arrays)
    reply = egress.let_out(unsigned, plan, site.key)
    with site.store.transaction():
        _require_still_approved(site, due.approval)
        # Noise is keyed to the amendment: the next request draws other noise for the same round.
        if amendments.arithmetic(site.store, plan) != due.arithmetic:
            raise Silence("amended while it was computed")
        if site.ledger.is_committed(request.identity):
            raise Silence("another process answered it meanwhile")
        site.ledger.commit(request.identity)
        site.replies.put(request, reply)
    reach("reply.stored", request.round)
    return reply


def _begin(site: Site, due: Due) -> tuple[Cohort, tuple[Patient, ...]]:
    """Who is in a round: who left does so now, and the rest pay, before anything is computed.

    One transaction: nobody pays who is not in the round, nobody is in it who does not pay.
    """
    approval, charge, plan = due.approval, due.charge, due.approval.plan
    if not approval.frozen:
        freeze(site, approval)
    # Read before the transaction: reading may take minutes, in which nothing else could be stored.
    cohort = site.cohorts.of(site.approvals.require(plan.hash))
    today = membership.places(cohort)
    with site.store.transaction():
        _require_still_approved(site, approval)
        running = [each.plan for each in site.approvals.running()]
        unpaid = membership.overdrawn(site.store, plan, running, site.file.policy.limits)
        left = membership.depart(site.store, plan.hash, today, site.cohorts.absent(), unpaid)
        site.ledger.reserve(charge, plan)
        patients = membership.paying_members(
            site.store, plan.hash, cohort, charge.part, charge.identity
        )
    if left:
        log.info("cohort.left", study=plan.study.study.name, do="see consilium-site show")
    return cohort, patients


def _require_still_approved(site: Site, approval: Approval) -> None:
    """While patients were read or a round was computed, a person may have stopped the study."""
    # Another key: it expired and was approved again, and the noise would follow from the old key.
    if site.approvals.require(approval.plan.hash).key != approval.key:
        raise Silence("approved again while it was computed")


def _arrays(request: Request, due: Due, cohort: Cohort, patients: tuple[Patient, ...]) -> Any:  # noqa: ANN401 - int32 or int64
    """A round's change in fixed point, or the noised histogram of an evaluation."""
    approval, part = due.approval, due.charge.part
    if approval.key is None:  # pragma: no cover - `require` has seen to it
        raise Silence("the study key is erased")
    plan = approval.plan
    study, trained = due.probed.study, np.asarray(request.arrays, dtype=np.float32)
    weights = due.probed.weights(trained, due.frozen)
    # All that the release depends on: a retry draws the same noise, and no noise meets two releases
    # whose difference would cancel it.
    streams = RoundStreams(
        derive(
            approval.key.secret,
            plan=due.arithmetic.identity,
            round=request.round,
            arrays=request.arrays_hash,
            cohort=membership.fingerprint(patients, part),
            purpose=request.purpose,
        )
    )
    if part == "train":
        number = request.round
        change = local_change(
            due.probed,
            weights,
            cohort.images,
            patients,
            round_number=number,
            streams=streams,
            masks=cohort.masks,
        )
        return plan.study.fixed_point.encode(change)
    choice, masks = due.probed.choice, cohort.masks
    counts = counted(study, weights, cohort.images, patients, choice=choice, masks=masks)
    return release(counts, plan.mechanism, streams.stream("evaluation")).reshape(-1)
