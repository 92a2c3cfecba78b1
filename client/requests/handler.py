"""How a site answers a request, whatever carries it.

A request goes downwards and never back: it is noted in the audit log; the gates hold it
(:mod:`client.requests.gates`); a round is computed (:mod:`client.requests.round`); the reply is
signed (:mod:`client.requests.egress`), noted, and leaves at a tick (:mod:`client.training.pacing`).

Here failures become silence and refusals become codes. A refusal by a gate follows from public
things, so its code may leave. Whatever fails at the site is silence, since it may depend on a
patient, and the site's own staff are told (:mod:`client.consent.problems`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from client.consent import problems, refusals
from client.process_limits import CardFailure, require_memory
from client.records.approvals import Silence
from client.requests import egress, gates, journal
from client.requests.round import compute
from client.site import Site
from common.devices.devices import DEVICES
from common.errors import ModelError, Refusal, RefusalCode
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
    "Do nothing if the images were read again. If this happens often, the machine is busier than "
    "when the time slot (tick) was measured, and the time of a reply may show how long a round "
    "took: give the machine less work, or stop the study and ask the coordinator to propose it "
    "again"
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
    """The signed reply to a request; a refusal where a gate does not let it pass.

    No exception leaves this function. What failed is logged at the site, by type and place. The
    coordinator gets a code where that follows from public things, and else nothing.

    Args:
        site: an open site.
        request: what is asked.
        purpose: of the message that carried it, where there was one.

    Returns:
        None where the site is silent: it takes no work now, the plan's approval ended, or the
        site itself fails.

    Raises:
        MemoryLimit: only in a worker with a memory limit, which then ends.
        CardFailure: only in a worker whose card is lost, which then ends.
    """
    bound = log.bind(
        site=site.name, study=request.study, round=request.round, purpose=request.purpose
    )
    try:
        with _failing_in_silence(site, request):
            journal.came(site, request)  # first: what cannot be noted must not be done
            reply = _answered(site, request, purpose or request.purpose)
    except Silence as silence:
        bound.info("request.silent", why=str(silence))
        with suppress(OSError):  # a full disk: nothing leaves, so nothing has to be noted
            journal.kept_silent(site, request, str(silence))
        return None
    if reply.code == OK:
        bound.info("request.answered")
    return reply


def _answered(site: Site, request: Request, purpose: Purpose) -> Reply:
    """The reply, or the code of the gate that refused; noted before it leaves."""
    again = False
    try:
        with _until_the_tick(site, request):
            match gates.admit(site, request, purpose):
                case Reply() as reply:
                    again = True
                case gates.Due() as due:
                    # Inside the other one, which lets refusals pass: from here on none may leave.
                    with _failing_in_silence(site, request):
                        reply = compute(site, request, due)
                        problems.settle(site, request.study, request.purpose)
                case document:
                    unsigned = egress.answer(
                        request, site.name, *site.records.heads(), document=document
                    )
                    reply = egress.let_out(unsigned, None, site.key)
                    problems.settle(site, request.study, request.purpose)
    except Refusal as refused:
        return _refuse(site, request, refused)
    except ModelError as error:  # of a study's model, before any patient is read
        _require_card(site, error)  # it may be the card that failed on random input
        return _refuse(site, request, Refusal(RefusalCode.MALFORMED, type(error).__name__))
    journal.goes(site, request, reply, again=again)
    return reply


@contextmanager
def _until_the_tick(site: Site, request: Request) -> Iterator[None]:
    """Work on patients ends at a public time, whether it answers, refuses or fails."""
    try:
        yield
    finally:
        ticks = site.pace.rest()
        if ticks > 1:
            about = {"study": request.study, "round": request.round, "purpose": request.purpose}
            log.warning("round.overran", site=site.name, ticks=ticks, do=SLOW, **about)
    if ticks:  # else nothing waited, and every gate has just looked
        _require_may_leave(site, request)


def _require_may_leave(site: Site, request: Request) -> None:
    """While a reply waited, a person may have stopped the study, or paused the site."""
    site.approvals.require_heard(request.plan_hash)
    if site.store.fact("paused"):
        raise Silence("paused while it waited")


@contextmanager
def _failing_in_silence(site: Site, request: Request) -> Iterator[None]:
    """Tell only the site's own staff of what fails in here.

    A code would tell the coordinator that it failed, and that may depend on a patient.
    """
    try:
        yield
    except Silence:
        raise
    except Exception as error:
        require_memory(error)
        _require_card(site, error)
        problems.keep(site, request.study, request.purpose, request.round, error)
        raise Silence("the site failed") from error


def _require_card(site: Site, error: BaseException) -> None:
    """In a worker whose card is lost, end the work: each later round would fail, and cost.

    The worker is started again, which is what a driver needs; its staff is told.

    Raises:
        CardFailure: nothing can be computed on the card any more.
    """
    if site.serves and DEVICES[site.file.device.name].is_lost():
        raise CardFailure from error


def _unreadable(site: Site, content: RecordDict, nobody: Request, refused: Refusal) -> Reply | None:
    """The reply to what is no request; None where the site is silent."""
    try:
        with _failing_in_silence(site, nobody):
            journal.unreadable(site, content, nobody.purpose)
            gates.require_at_work(site)
            return _refuse(site, nobody, refused)
    except Silence:
        return None


def _refuse(site: Site, request: Request, refused: Refusal) -> Reply:
    """A code, and nothing else, leaves; the words stay at the site."""
    told, do = refusals.details(refused), {}
    # The one refusal that only the site's own staff can end: its ledger lost charges.
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
    refusals.keep(site, request, refused)
    problems.keep_refused(site, request, refused)
    unsigned = egress.answer(request, site.name, *site.records.heads(), code=str(refused.code))
    reply = egress.let_out(unsigned, None, site.key)
    journal.goes(site, request, reply, why=refused.what, details=told)
    return reply
