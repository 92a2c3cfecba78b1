"""The gates of a site: everything that is checked of a request before a patient is read.

:func:`admit` has them all, in their order. Each follows from messages, plans, settings and
decisions, never from a patient, so each may have a code. Behind the last gate there are no codes
(:mod:`client.requests.round`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np

from client.consent import amendments
from client.consent.policy import require_allowed, within
from client.frozen import Flat
from client.records.accounts import Part, event_of
from client.records.approvals import Approval, Silence
from client.records.ledger import Charge
from client.requests import proposals
from client.site import Site
from client.training.features import require_ready
from client.training.local import Probed
from common import numerics
from common.amendment import Arithmetic
from common.errors import Refusal, RefusalCode
from common.plan import Plan
from common.wire.messages import Purpose, Reply, Request


@dataclass(frozen=True)
class Due:
    """A round that passed every gate and is to be computed.

    Attributes:
        approval: of its plan.
        charge: what it costs each patient who takes part.
        arithmetic: the numerics that it is computed with.
        probed: what is computed of the study, and its sound model.
        frozen: the weights that are not trained; None where all are.
    """

    approval: Approval
    charge: Charge
    arithmetic: Arithmetic
    probed: Probed
    frozen: Flat | None = field(default=None, repr=False)


def admit(site: Site, request: Request, purpose: Purpose) -> Reply | Due | str:
    """Hold a request against every gate.

    Args:
        site: an open site.
        request: what is asked.
        purpose: what the message that carried it says that it is for.

    Returns:
        A stored reply to send again, a round to compute, or the document of a reply to sign
        (mostly empty).

    Raises:
        Silence: the site takes no work now, or the approval of the plan ended.
        Refusal: with the code of the gate.
        ModelError: of a study's model, tried on made-up numbers.
    """
    # First, so that no gate sees an approval whose time is over.
    site.records.expire()
    require_at_work(site)
    # Before anything that has a code: a stopped study must look like a machine that is off.
    site.approvals.require_heard(request.plan_hash, proposed=request.purpose == "propose")
    # Else an evaluation in a message for training would pass whatever routes by the message's type.
    if request.purpose != purpose:
        raise Refusal(RefusalCode.MALFORMED, "the message is for another purpose than its request")
    _require_form(request)
    # Before the stored reply: a site that lost charges must not answer as if it had them.
    site.receipts.take(request)
    if request.purpose == "offer":
        return proposals.offer(site, request)
    if request.purpose in _WITHOUT_CONTENT:
        _WITHOUT_CONTENT[request.purpose](site, request)
        return ""
    # Before the approval is asked for: the same request gets the same bytes, and is paid for once.
    if stored := site.replies.find(request):
        return stored
    approval = site.approvals.require(request.plan_hash)
    plan = approval.plan
    part: Part = "train" if request.purpose == "train" else "validation"
    _require_in_order(site, request, plan, part)
    _require_arrays(request, plan)
    require_allowed(plan, site)
    agreed = amendments.arithmetic(site.store, plan)
    numerics.apply(agreed.numerics)
    # Before the charge: a model that is refused costs nobody anything.
    frozen = site.frozen.of(plan)
    probed = require_ready(plan.study, plan.mechanism, agreed.numerics.choice)
    charge = Charge(plan.hash, request.round, part, request.identity, event_of(plan, part))
    site.ledger.require_chargeable(charge, plan)
    return Due(approval, charge, agreed, probed, frozen)


_WITHOUT_CONTENT: Final[Mapping[Purpose, Callable[[Site, Request], None]]] = {
    "propose": proposals.propose,
    "amend": amendments.take,
    "provide": proposals.provide,
    "close": proposals.close,
}
"""What is asked of a study beside its rounds, and answered by yes alone."""


def require_at_work(site: Site) -> None:
    """Be silent while the site takes no work: a person paused it, or it is outside its hours."""
    if not within(site.file.policy.hours, datetime.now().astimezone().time()):
        raise Silence("outside the hours")
    if site.store.fact("paused"):
        raise Silence("paused")


def _require_form(request: Request) -> None:
    """Refuse fields that an honest coordinator leaves empty, even where nothing would read them."""
    asked, number = request.purpose, request.round
    if asked in ("offer", "propose", "amend", "close") and request.arrays is not None:
        raise Refusal(RefusalCode.MALFORMED, "the request has an array and needs none")
    if asked in ("offer", "propose", "amend", "provide") and number:
        raise Refusal(RefusalCode.MALFORMED, "the request has a round number and needs none")
    if asked == "offer" and request.plan_hash:
        raise Refusal(RefusalCode.MALFORMED, "the request names a plan and needs none")
    if asked in ("provide", "train", "evaluate", "close") and request.document:
        raise Refusal(RefusalCode.MALFORMED, "the request has a document and needs none")
    if request.acknowledged > (max(number - 1, 0) if asked == "train" else number):
        raise Refusal(RefusalCode.MALFORMED, "the request acknowledges rounds to come")


def _require_in_order(site: Site, request: Request, plan: Plan, part: Part) -> None:
    if request.study != plan.study.study.name:
        raise Refusal(RefusalCode.WRONG_PLAN, "the plan belongs to another study")
    site.ledger.require(request.ledger)
    training = plan.study.training
    foreseen = range(1, training.rounds + 1) if part == "train" else plan.study.evaluation_rounds
    if request.round not in foreseen:
        raise Refusal(RefusalCode.ROUND_OUT_OF_ORDER, "the plan has no such round")
    last = site.ledger.last_round(plan.hash, part)
    if request.round < last:
        raise Refusal(
            RefusalCode.ROUND_OUT_OF_ORDER,
            "a later round has run already",
            found=request.round,
            wanted=f"{last} or later",
        )
    # Its reply is deleted by now. Computed again, on the patients of today, it would be a second
    # release for one charge.
    if site.ledger.is_committed(request.identity):
        raise Refusal(
            RefusalCode.ROUND_OUT_OF_ORDER, "this round was answered and acknowledged already"
        )


def _require_arrays(request: Request, plan: Plan) -> None:
    arrays = request.arrays
    if arrays is None or arrays.dtype != np.float32 or arrays.shape != (plan.weights,):
        raise Refusal(RefusalCode.MALFORMED, "the weights have the wrong type or length")
    if not np.isfinite(arrays).all():
        raise Refusal(RefusalCode.MALFORMED, "the weights are not all finite")
