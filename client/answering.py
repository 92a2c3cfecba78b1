"""How a site answers a request, whatever carries it: gates first, then work, then egress.

The gates stand in the order in which they are read here: the request is noted in the audit log;
the site must be neither paused nor outside its hours; whoever takes no part must stand in no
running study; a plan whose approval ended gets silence; nothing may be said beside what is asked;
a receipt must hold; the reply may be stored already; the plan must be approved; the ledger must be
the newest; the round must be next; arrays, cohort, numerics and policy must be as approved; the
cost must be reserved durably. Only then is anything computed from patients or forgotten, and what
is computed leaves only if the approval still stands and the reply is noted. Nothing but a code
says why a site declines.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import datetime
from typing import Any

import numpy as np
import structlog
from pydantic import ValidationError

from client import declined, egress, noting
from client.approvals import Approval, Silence
from client.consent import close, consider, withdraw
from client.daemon.limits import require_memory
from client.dataset import Cohort
from client.evaluation import release, score
from client.ledger import LOST, Charge, Part, event_of
from client.policy import require_allowed, within
from client.sampling import RoundStreams
from client.site import Site
from client.training import local_change
from client.tuning import check
from common import numerics
from common.errors import ConsiliumError, ModelError, Refusal, RefusalCode
from common.faults import reach
from common.files import canonical_json
from common.flower import RecordDict
from common.histogram import histogram
from common.logs import place
from common.messages import (
    LedgerHead,
    Purpose,
    Reply,
    Request,
    reply_to_record,
    request_from_record,
)
from common.plan import Plan, read_plan
from common.privacy import PatientMechanism
from common.randomness import derive
from common.study import Study

log = structlog.get_logger(__name__)


def answer_record(site: Site, content: RecordDict, purpose: Purpose) -> RecordDict | None:
    """Answer what arrived in a Flower message of the given purpose; see :func:`answer`."""
    nobody = Request(study="", plan_hash="", round=0, purpose=purpose)
    try:
        request = request_from_record(content)
    except Refusal as refused:
        log.warning("request.unreadable", site=site.name, why=refused.what)
        with suppress(OSError):
            noting.unreadable(site, content, purpose)
        try:
            _require_at_work(site)
        except Silence:
            return None
        return reply_to_record(_decline(site, nobody, refused.code, refused.what))
    reply = answer(site, request, purpose)
    return None if reply is None else reply_to_record(reply)


def answer(site: Site, request: Request, purpose: Purpose | None = None) -> Reply | None:
    """The signed reply to a request; a refusal where anything is not as it should be.

    No exception leaves this function: what went wrong is logged at the site, by name and
    place, and the coordinator learns a code.

    Args:
        site: an open site.
        request: what is asked.
        purpose: what the message that carried it says that it is for, where there was one.

    Returns:
        None where the site is silent: it takes no work now, or the plan's approval ended.

    Raises:
        MemoryLimit: in a worker with a memory limit alone, which it ends.
    """
    bound = log.bind(
        site=site.name, study=request.study, round=request.round, purpose=request.purpose
    )
    try:
        noting.came(site, request)
        reply, again = _answer(site, request, purpose or request.purpose)
        noting.goes(site, request, reply, again=again)
    except Silence as silence:
        bound.info("request.silent", why=str(silence))
        with suppress(OSError):
            noting.kept_silent(site, request, str(silence))
        return None
    except Refusal as refused:
        do = {"do": LOST} if refused.code == RefusalCode.LEDGER_BEHIND else {}
        told = declined.details(refused)
        bound.warning("request.refused", code=str(refused.code), why=refused.what, **told, **do)
        declined.keep(site, request, refused)
        return _decline(site, request, refused.code, refused.what, told)
    except ConsiliumError as error:
        # Not its words: they count rows and patients, and a log holds nothing computed from them.
        why, where = type(error).__name__, place(error)
        bound.error("request.failed", error=why, at=where, do="run consilium-site check")
        wrong_study = isinstance(error, ModelError)
        code = RefusalCode.MALFORMED if wrong_study else RefusalCode.DATA_UNAVAILABLE
    except Exception as error:  # noqa: BLE001 - the last gate: no exception may reach Flower
        require_memory(error)
        why, code = type(error).__name__, RefusalCode.INTERNAL
        bound.error("request.failed", error=why, at=place(error))
    else:
        bound.info("request.answered")
        return reply
    return _decline(site, request, code, why)


def _decline(
    site: Site, request: Request, code: RefusalCode, why: str, told: dict[str, str] | None = None
) -> Reply:
    """A code; it may go out even where it cannot be noted, since it says nothing else."""
    try:
        ledger = site.ledger.head()
    except sqlite3.Error:  # the store is what failed: to say so needs no ledger
        ledger = LedgerHead()
    refusal = egress.refusal(request, site.name, ledger, code, site.audit.head)
    reply = egress.let_out(refusal, None, site.key)
    with suppress(OSError):
        noting.goes(site, request, reply, why=why, details=told or {})
    return reply


def _answer(site: Site, request: Request, purpose: Purpose) -> tuple[Reply, bool]:
    """The reply, and whether it was stored and so released before."""
    _require_at_work(site)
    withdraw(site)
    site.approvals.require_heard(request.plan_hash, proposed=request.purpose == "propose")
    if request.purpose != purpose:
        raise Refusal(RefusalCode.MALFORMED, "a message of another purpose")
    _require_form(request)
    site.receipts.take(request)
    if request.purpose == "offer":
        offer = site.offer(_offered_study(request))
        document = canonical_json(offer.model_dump(mode="json")).decode()
        return _sign(site, request, document=document), False
    if request.purpose == "propose":
        _propose(site, request)
        return _sign(site, request), False
    if request.purpose == "close":
        _close(site, request)
        return _sign(site, request), False
    stored = site.replies.find(request)
    return (stored, True) if stored else (_run_round(site, request), False)


def _require_at_work(site: Site) -> None:
    """Be silent while the site takes no work: a person paused it, or its hours are over."""
    if not within(site.file.policy.hours, datetime.now().astimezone().time()):
        raise Silence("outside the hours")
    if _is_paused(site):
        raise Silence("paused")


def _is_paused(site: Site) -> bool:
    try:
        return bool(site.store.fact("paused"))
    except sqlite3.Error:  # whether it was paused is not known; nothing can be computed either
        return False


def _require_form(request: Request) -> None:
    """Refuse what no honest coordinator says beside a question, whoever would look at it."""
    asked, number = request.purpose, request.round
    if asked in ("offer", "propose", "close") and request.arrays is not None:
        raise Refusal(RefusalCode.MALFORMED, "an array that was not asked for")
    if asked in ("offer", "propose") and number:
        raise Refusal(RefusalCode.MALFORMED, "a round before there are any")
    if asked == "offer" and request.plan_hash:
        raise Refusal(RefusalCode.MALFORMED, "a plan before there is one")
    if asked == "close" and request.document:
        raise Refusal(RefusalCode.MALFORMED, "a document that was not asked for")
    if request.acknowledged > (max(number - 1, 0) if asked == "train" else number):
        raise Refusal(RefusalCode.MALFORMED, "an acknowledgement of rounds to come")


def _close(site: Site, request: Request) -> None:
    approval = site.approvals.find(request.plan_hash)
    if approval is None:
        raise Refusal(RefusalCode.NOT_APPROVED, "the end of a plan that was never proposed")
    if approval.plan.study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "the plan that is to end belongs to another study")
    close(site, request.plan_hash, request.acknowledged)


def _offered_study(request: Request) -> Study:
    try:
        study = Study.model_validate_json(request.document)
    except ValidationError as error:
        raise Refusal(RefusalCode.MALFORMED, "a study cannot be read", found=error) from error
    if study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "an offer for another study than the one it names")
    return study


def _sign(site: Site, request: Request, *, document: str = "") -> Reply:
    reply = egress.answer(
        request, site.name, site.ledger.head(), site.audit.head, document=document
    )
    return egress.let_out(reply, None, site.key)


def _propose(site: Site, request: Request) -> None:
    """Hold a plan against this site and its policy; approve it or leave it to a person."""
    plan = read_plan(request.document)
    if plan.hash != request.plan_hash or plan.study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "a request that is not about the plan it carries")
    site.ledger.require(request.ledger)
    found = site.approvals.find(plan.hash)
    if found is None or found.standing == "expired":
        consider(site, plan)
    site.frozen_cohort(site.approvals.require(plan.hash))


def _run_round(site: Site, request: Request) -> Reply:
    approval = site.approvals.require(request.plan_hash)
    plan = approval.plan
    part: Part = "train" if request.purpose == "train" else "validation"
    _require_in_order(site, request, plan, part)
    _require_arrays(request, plan)
    require_allowed(plan, site)
    cohort = site.frozen_cohort(approval)
    numerics.apply(plan.numerics)
    if isinstance(plan.mechanism, PatientMechanism):
        check(plan.study, plan.numerics.choice)  # a model that is refused costs nobody anything
    charge = Charge(plan.hash, request.round, part, request.identity, event_of(plan, part))
    site.ledger.reserve(charge, plan, site.file.policy.limits)
    site.replies.acknowledge(plan.hash, request.acknowledged)
    reach("reservation.made", request.round)
    if approval.key is None:  # pragma: no cover - `require` has seen to it
        raise Refusal(RefusalCode.NOT_APPROVED, "the study key is erased")
    streams = RoundStreams(
        derive(
            approval.key.secret,
            plan=plan.hash,
            round=request.round,
            arrays=request.arrays_hash,
            cohort=cohort.fingerprint,
            purpose=request.purpose,
        )
    )
    compute = _train if part == "train" else _evaluate
    arrays = compute(plan, request, cohort, streams)
    unsigned = egress.answer(request, site.name, site.ledger.head(), site.audit.head, arrays=arrays)
    reply = egress.let_out(unsigned, plan, site.key)
    withdraw(site)
    with site.store.transaction():
        _require_still_approved(site, approval)
        site.ledger.commit(request.identity)
        site.replies.put(request, reply)
    reach("reply.stored", request.round)
    return reply


def _require_still_approved(site: Site, approval: Approval) -> None:
    """While a round was computed, a person may have stopped it or frozen other patients."""
    if site.approvals.require(approval.plan.hash).key != approval.key:
        raise Silence("approved anew while it was computed")


def _require_in_order(site: Site, request: Request, plan: Plan, part: Part) -> None:
    if request.study != plan.study.study.name:
        raise Refusal(RefusalCode.WRONG_PLAN, "the plan belongs to another study")
    site.ledger.require(request.ledger)
    training = plan.study.training
    foreseen = range(1, training.rounds + 1) if part == "train" else plan.study.evaluation_rounds
    if request.round not in foreseen:
        raise Refusal(RefusalCode.ROUND_OUT_OF_ORDER, "the plan foresees no such round")
    last = site.ledger.last_round(plan.hash, part)
    if request.round < last:
        raise Refusal(
            RefusalCode.ROUND_OUT_OF_ORDER,
            "a later round was run already",
            found=request.round,
            wanted=f"{last} or later",
        )
    if site.ledger.is_committed(request.identity):
        raise Refusal(
            RefusalCode.ROUND_OUT_OF_ORDER, "this round was answered and acknowledged already"
        )


def _require_arrays(request: Request, plan: Plan) -> None:
    arrays = request.arrays
    if arrays is None or arrays.dtype != np.float32 or arrays.shape != (plan.weights,):
        raise Refusal(RefusalCode.MALFORMED, "the weights have another type or length")
    if request.document or not np.isfinite(arrays).all():
        raise Refusal(RefusalCode.MALFORMED, "the weights are not all finite")


def _train(plan: Plan, request: Request, cohort: Cohort, streams: RoundStreams) -> Any:  # noqa: ANN401 - int32 or int64
    change = local_change(
        plan.study,
        plan.mechanism,
        np.asarray(request.arrays, dtype=np.float32),
        cohort.images,
        cohort.part("train"),
        round_number=request.round,
        streams=streams,
        choice=plan.numerics.choice,
    )
    try:
        return plan.study.fixed_point.encode(change)
    except ValueError as error:
        raise Refusal(RefusalCode.EGRESS, "an update that is not finite cannot leave") from error


def _evaluate(plan: Plan, request: Request, cohort: Cohort, streams: RoundStreams) -> Any:  # noqa: ANN401 - int64
    scores, labels = score(
        plan.study,
        np.asarray(request.arrays, dtype=np.float32),
        cohort.images,
        cohort.part("validation"),
        tile=plan.numerics.choice.tile,
    )
    classes, _, bins = plan.histogram_shape
    counts = histogram(scores, labels, classes=classes, bins=bins)
    return release(counts, plan.mechanism, streams.stream("evaluation")).reshape(-1)
