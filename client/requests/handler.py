"""How a site answers a request, whatever carries it: gates first, then work, then egress.

The gates stand in the order in which they are read here: the request is noted in the audit log;
the site must be neither paused nor outside its hours; a plan whose approval ended gets silence;
nothing may be said beside what is asked; a receipt must hold, for what this site has sealed; the
reply may be stored already; the plan must be approved; the ledger must be the newest; the round
must be next; arrays, numerics and policy must be as approved, and the plan must foresee the
charge. All of that follows from messages, plans, settings and decisions, and each has a code.

Then patients are read, and from there on there is no code: whoever is not in the cohort any more
leaves it, the round's cost is reserved durably and noted, the round is computed for whoever is
there, or nobody, and what is computed leaves if the approval still stands and the reply is noted.
Whatever fails at the site, there or before, is silence, and its people are told
(:mod:`client.consent.problems`). Reply or silence, it is over at a tick and not when it is done
(:mod:`client.training.pacing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

import numpy as np
import structlog
from pydantic import ValidationError

from client.consent import amendments, problems, rejected
from client.consent.decisions import close, consider, freeze
from client.consent.policy import require_allowed, require_room, within
from client.data.cohort import Cohort, Patient
from client.memory import require_memory
from client.records import membership
from client.records.accounts import Part, event_of
from client.records.approvals import Approval, Silence
from client.records.ledger import Charge
from client.requests import egress, journal
from client.site import Site
from client.training.evaluation import release, score
from client.training.local import local_change
from client.training.sampling import RoundStreams
from client.training.tuning import check
from common import numerics
from common.amendment import Arithmetic
from common.errors import ModelError, Refusal, RefusalCode
from common.figures.histogram import histogram
from common.files import canonical_json
from common.numerics import EngineChoice
from common.plan import Plan, read_plan
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import derive
from common.process.killpoints import reach
from common.study.study_file import Study
from common.wire.flower import RecordDict
from common.wire.messages import (
    OK,
    Purpose,
    Reply,
    Request,
    reply_to_record,
    request_from_record,
)

SLOW: Final = (
    "nothing, if the images were read again; where it comes often, the machine is busier than when "
    "the tick was measured, and replies may tell how much longer rounds take: give it less to do, "
    "or stop the study and have it proposed anew"
)

log = structlog.get_logger(__name__)


def answer_record(site: Site, content: RecordDict, purpose: Purpose) -> RecordDict | None:
    """Answer what arrived in a Flower message of the given purpose; see :func:`answer`."""
    nobody = Request(study="", plan_hash="", round=0, purpose=purpose)
    try:
        request = request_from_record(content)
    except Refusal as refused:
        log.warning("request.unreadable", site=site.name, why=refused.what)
        reply = _unreadable(site, content, nobody, refused)
    else:
        reply = answer(site, request, purpose)
    return None if reply is None else reply_to_record(reply)


def answer(site: Site, request: Request, purpose: Purpose | None = None) -> Reply | None:
    """The signed reply to a request; a refusal where anything is not as it should be.

    No exception leaves this function: what went wrong is logged at the site, by name and
    place, and the coordinator learns a code where that follows from public things, else nothing.

    Args:
        site: an open site.
        request: what is asked.
        purpose: what the message that carried it says that it is for, where there was one.

    Returns:
        None where the site is silent: it takes no work now, the plan's approval ended, or the
        site itself fails.

    Raises:
        MemoryLimit: in a worker with a memory limit alone, which it ends.
    """
    bound = log.bind(
        site=site.name, study=request.study, round=request.round, purpose=request.purpose
    )
    try:
        with _failing_in_silence(site, request):
            journal.came(site, request)
            reply = _answer_or_decline(site, request, purpose or request.purpose)
    except Silence as silence:
        bound.info("request.silent", why=str(silence))
        with suppress(OSError):
            journal.kept_silent(site, request, str(silence))
        return None
    if reply.code == OK:
        bound.info("request.answered")
    return reply


def _answer_or_decline(site: Site, request: Request, purpose: Purpose) -> Reply:
    try:
        with _until_the_tick(site, request):
            reply, again = _answer(site, request, purpose)
    except Refusal as refused:
        return _decline(site, request, refused)
    except ModelError as error:  # of a study's model, before any patient is read
        return _decline(site, request, Refusal(RefusalCode.MALFORMED, type(error).__name__))
    journal.goes(site, request, reply, again=again)
    return reply


@contextmanager
def _until_the_tick(site: Site, request: Request) -> Iterator[None]:
    """Whatever came of looking at patients, it is over at a public time."""
    try:
        yield
    finally:
        ticks = site.pace.rest()
        if ticks > 1:
            about = {"study": request.study, "round": request.round, "purpose": request.purpose}
            log.warning("round.overran", site=site.name, ticks=ticks, do=SLOW, **about)
    if ticks:
        _require_may_leave(site, request)


def _require_may_leave(site: Site, request: Request) -> None:
    """While a reply waited, a person may have stopped the study, or paused the site."""
    site.approvals.require_heard(request.plan_hash)
    if site.store.fact("paused"):
        raise Silence("paused while it waited")


@contextmanager
def _failing_in_silence(site: Site, request: Request) -> Iterator[None]:
    """Whatever fails in here is told to the site's own people, and to nobody else.

    A code would tell that it failed, and what fails may depend on a patient.
    """
    try:
        yield
    except Silence:
        raise
    except Exception as error:
        require_memory(error)
        problems.keep(site, request.study, error)
        raise Silence("the site failed") from error


def _unreadable(site: Site, content: RecordDict, nobody: Request, refused: Refusal) -> Reply | None:
    """The reply to what is no request; None where the site is silent."""
    try:
        with _failing_in_silence(site, nobody):
            journal.unreadable(site, content, nobody.purpose)
            _require_at_work(site)
            return _decline(site, nobody, refused)
    except Silence:
        return None


def _decline(site: Site, request: Request, refused: Refusal) -> Reply:
    """A code, which is all that leaves; the words stay here."""
    told, do = rejected.details(refused), {}
    if refused.code == RefusalCode.LEDGER_BEHIND:
        do = {"do": refused.details["do"]}
    log.warning(
        "request.refused",
        site=site.name,
        study=request.study,
        code=str(refused.code),
        why=refused.what,
        **told,
        **do,
    )
    rejected.keep(site, request, refused)
    ledger, seal = site.heads()
    unsigned = egress.refusal(request, site.name, ledger, refused.code, seal)
    reply = egress.let_out(unsigned, None, site.key)
    journal.goes(site, request, reply, why=refused.what, details=told)
    return reply


def _answer(site: Site, request: Request, purpose: Purpose) -> tuple[Reply, bool]:
    """The reply, and whether it was stored and so released before."""
    site.expire()
    _require_at_work(site)
    site.approvals.require_heard(request.plan_hash, proposed=request.purpose == "propose")
    if request.purpose != purpose:
        raise Refusal(RefusalCode.MALFORMED, "a message of another purpose")
    _require_form(request)
    site.receipts.take(request)
    if request.purpose == "offer":
        study = _offered_study(request)
        require_room(study, site)
        offer = site.offer(study)
        document = canonical_json(offer.model_dump(mode="json")).decode()
        return _sign(site, request, document=document), False
    if request.purpose == "propose":
        _propose(site, request)
        return _sign(site, request), False
    if request.purpose == "amend":
        amendments.take(site, request)
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
    if site.store.fact("paused"):
        raise Silence("paused")


def _require_form(request: Request) -> None:
    """Refuse what no honest coordinator says beside a question, whoever would look at it."""
    asked, number = request.purpose, request.round
    if asked in ("offer", "propose", "amend", "close") and request.arrays is not None:
        raise Refusal(RefusalCode.MALFORMED, "an array that was not asked for")
    if asked in ("offer", "propose", "amend") and number:
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
    agreed = amendments.arithmetic(site.store, approval.plan).numerics
    site.pace.begin(agreed.ticks.train)  # what is overwritten and deleted is patients' too
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
    reply = egress.answer(request, site.name, *site.heads(), document=document)
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
    site.approvals.require(plan.hash)


def _run_round(site: Site, request: Request) -> Reply:
    approval = site.approvals.require(request.plan_hash)
    plan = approval.plan
    part: Part = "train" if request.purpose == "train" else "validation"
    _require_in_order(site, request, plan, part)
    _require_arrays(request, plan)
    require_allowed(plan, site)
    agreed = amendments.arithmetic(site.store, plan)
    numerics.apply(agreed.numerics)
    if isinstance(plan.mechanism, PatientMechanism):
        check(plan.study, agreed.numerics.choice)  # a model that is refused costs nobody anything
    charge = Charge(plan.hash, request.round, part, request.identity, event_of(plan, part))
    site.ledger.require_chargeable(charge, plan)
    with _failing_in_silence(site, request):
        return _release(site, request, approval, charge, agreed)


def _release(
    site: Site, request: Request, approval: Approval, charge: Charge, agreed: Arithmetic
) -> Reply:
    """Compute a round from patients. No code leaves from here: any failure is silence."""
    plan = approval.plan
    site.pace.begin(agreed.numerics.ticks.of(charge.part))
    cohort, patients = _begin(site, approval, charge)
    reach("charge.committed", request.round)
    site.note_charges()
    site.replies.acknowledge(plan.hash, request.acknowledged)
    reach("reservation.made", request.round)
    if approval.key is None:  # pragma: no cover - `require` has seen to it
        raise Silence("the study key is erased")
    streams = RoundStreams(
        derive(
            approval.key.secret,
            plan=agreed.identity,
            round=request.round,
            arrays=request.arrays_hash,
            cohort=membership.fingerprint(patients, charge.part),
            purpose=request.purpose,
        )
    )
    compute = _train if charge.part == "train" else _evaluate
    arrays = compute(plan, request, cohort, patients, streams, choice=agreed.numerics.choice)
    unsigned = egress.answer(request, site.name, *site.heads(), arrays=arrays)
    reply = egress.let_out(unsigned, plan, site.key)
    with site.store.transaction():
        _require_still_approved(site, approval)
        if amendments.arithmetic(site.store, plan) != agreed:
            raise Silence("amended while it was computed")
        if site.ledger.is_committed(request.identity):
            raise Silence("another process answered it meanwhile")
        site.ledger.commit(request.identity)
        site.replies.put(request, reply)
    problems.over(site)
    reach("reply.stored", request.round)
    return reply


def _begin(site: Site, approval: Approval, charge: Charge) -> tuple[Cohort, tuple[Patient, ...]]:
    """Who is in a round: whoever left does so now, and the rest pay, before anything is computed.

    One transaction: nobody pays who is not in the round, nobody is in it who does not pay.
    """
    plan = approval.plan
    if not approval.frozen:
        freeze(site, approval)
    cohort = site.cohort_for(site.approvals.require(plan.hash))
    today = membership.places(cohort)
    with site.store.transaction():
        _require_still_approved(site, approval)
        running = [each.plan for each in site.approvals.running()]
        unpaid = membership.overdrawn(site.store, plan, running, site.file.policy.limits)
        left = membership.depart(site.store, plan.hash, today, site.absent(), unpaid)
        site.ledger.reserve(charge, plan)
        patients = membership.standing(site.store, plan.hash, cohort, charge.part, charge.identity)
    if left:
        log.info("cohort.left", study=plan.study.study.name, do="see consilium-site show")
    return cohort, patients


def _require_still_approved(site: Site, approval: Approval) -> None:
    """While patients were read or a round was computed, a person may have stopped the study."""
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


def _train(
    plan: Plan,
    request: Request,
    cohort: Cohort,
    patients: tuple[Patient, ...],
    streams: RoundStreams,
    *,
    choice: EngineChoice,
) -> Any:  # noqa: ANN401 - int32 or int64
    change = local_change(
        plan.study,
        plan.mechanism,
        np.asarray(request.arrays, dtype=np.float32),
        cohort.images,
        patients,
        round_number=request.round,
        streams=streams,
        choice=choice,
    )
    return plan.study.fixed_point.encode(change)


def _evaluate(
    plan: Plan,
    request: Request,
    cohort: Cohort,
    patients: tuple[Patient, ...],
    streams: RoundStreams,
    *,
    choice: EngineChoice,
) -> Any:  # noqa: ANN401 - int64
    scores, labels = score(
        plan.study,
        np.asarray(request.arrays, dtype=np.float32),
        cohort.images,
        patients,
        choice=choice,
    )
    classes, _, bins = plan.histogram_shape
    counts = histogram(scores, labels, classes=classes, bins=bins)
    return release(counts, plan.mechanism, streams.stream("evaluation")).reshape(-1)
