"""What a coordinator asks of a study outside its rounds: an offer, a plan's approval, its end."""

from __future__ import annotations

from pydantic import ValidationError

from client.consent import amendments, decisions
from client.consent.policy import require_fits_device
from client.site import Site
from common.errors import Refusal, RefusalCode
from common.files import canonical_json
from common.plan import read_plan
from common.study.study_file import Study
from common.wire.messages import Request


def offer(site: Site, request: Request) -> str:
    """The site's public numbers for a study, as a document.

    Raises:
        Refusal: the study cannot be read, or asks for data or memory that the site does not give.
        ModelError: the study's model cannot be built, or not be trained privately.
    """
    try:
        study = Study.model_validate_json(request.document)
    except ValidationError as error:
        raise Refusal(RefusalCode.MALFORMED, "a study cannot be read", found=error) from error
    if study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "the request names another study than it carries")
    # Before the offer is made: its numerics are measured on this model.
    require_fits_device(study, site)
    return canonical_json(site.offer(study).model_dump(mode="json")).decode()


def propose(site: Site, request: Request) -> None:
    """Hold a plan against this site and its policy; approve it or leave it to a person.

    Raises:
        Refusal: the plan is not approved, or not yet.
        ModelError: the study's model cannot be trained privately here.
    """
    plan = read_plan(request.document)
    if plan.hash != request.plan_hash or plan.study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "the request names another plan than it carries")
    site.ledger.require(request.ledger)
    # A plan that is known was decided or waits: `require` tells which, and nothing is asked twice.
    found = site.approvals.find(plan.hash)
    if found is None or found.standing == "expired":
        decisions.consider(site, plan)
    site.approvals.require(plan.hash)


def provide(site: Site, request: Request) -> None:
    """Keep the frozen weights of a plan that was approved.

    Raises:
        Silence: the approval ended.
        Refusal: the plan is not approved, or the weights are not those that it names.
    """
    approval = site.approvals.require(request.plan_hash)
    if approval.plan.study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "the plan of the weights belongs to another study")
    site.frozen.keep(approval.plan, request.arrays)


def close(site: Site, request: Request) -> None:
    """End a study that its coordinator is done with.

    Raises:
        Refusal: its plan was never proposed, or belongs to another study.
    """
    approval = site.approvals.find(request.plan_hash)
    if approval is None:
        raise Refusal(RefusalCode.NOT_APPROVED, "the plan to end was never proposed")
    if approval.plan.study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "the plan to end belongs to another study")
    agreed = amendments.arithmetic(site.store, approval.plan).numerics
    # How long deleting takes follows from patients too: their pixels, charges and places.
    site.pace.begin(agreed.ticks.train)
    decisions.close(site, request.plan_hash, request.acknowledged)
