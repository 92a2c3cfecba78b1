"""The one door out of a site.

Every reply passes here. It is compared with the plan (keys, shape, dtype, range, schema), then
signed with the site's key over study, plan, round and content. Anything else does not leave, and no
code leaves in its place: a code could tell what a result held.
"""

from __future__ import annotations

import numpy as np
from pydantic import ValidationError

from common.errors import RefusalCode
from common.figures.release import MOST_COUNT
from common.files import canonical_json
from common.plan import Offer, Plan
from common.wire.messages import NO_SEAL, OK, LedgerHead, Reply, Request
from common.wire.signing import SigningKey


class EgressError(Exception):
    """Something was about to leave that must not: a defect of this program."""


def answer(
    request: Request,
    site: str,
    ledger: LedgerHead,
    seal: str = NO_SEAL,
    *,
    code: str = OK,
    arrays: np.ndarray | None = None,
    document: str = "",
) -> Reply:
    """A reply to a request, not yet checked or signed; a refusal has its code and nothing else."""
    return Reply(
        site=site,
        request=request.identity,
        study=request.study,
        plan_hash=request.plan_hash,
        round=request.round,
        purpose=request.purpose,
        code=code,
        arrays=arrays,
        document=document,
        ledger=ledger,
        seal=seal,
    )


def let_out(reply: Reply, plan: Plan | None, key: SigningKey) -> Reply:
    """Check a reply and sign it: the only way to a signature.

    Args:
        reply: what is about to leave.
        plan: the approved plan that it belongs to; None before there is one.
        key: the site's key.

    Raises:
        EgressError: the reply holds something that the plan does not foresee: nothing leaves.
    """
    # A code follows from public things alone (RefusalCode says which); nothing may go with it.
    if reply.code != OK:
        _require(reply.code in set(RefusalCode), "a code outside the closed list")
        _require(reply.arrays is None and not reply.document, "more than a code")
    elif reply.purpose == "train":
        _check_update(reply, _known(plan))
    elif reply.purpose == "evaluate":
        _check_histogram(reply, _known(plan))
    elif reply.purpose == "offer":
        _check_offer(reply, key)
    else:
        _require(reply.arrays is None and not reply.document, "content where none is foreseen")
    # Over site, study, plan, round, purpose and content: no part can be moved into another reply.
    return reply.with_signature(key.sign(reply.signed_bytes))


def _check_update(reply: Reply, plan: Plan) -> None:
    fixed = plan.study.fixed_point
    _check_array(reply, plan, fixed.dtype, plan.weights, fixed.limit)
    _require(1 <= reply.round <= plan.study.training.rounds, "a round outside the plan")


def _check_histogram(reply: Reply, plan: Plan) -> None:
    _check_array(reply, plan, "int64", plan.release.size, MOST_COUNT)
    _require(reply.round in plan.study.evaluation_rounds, "an evaluation outside the plan")


def _check_array(reply: Reply, plan: Plan, dtype: str, size: int, limit: int) -> None:
    _require(reply.study == plan.study.study.name, "another study")
    _require(reply.plan_hash == plan.hash, "another plan")
    _require(reply.site == plan.site, "another site")
    _require(not reply.document, "text beside an array")
    arrays = reply.arrays
    _require(arrays is not None, "no array")
    if arrays is not None:
        _require(str(arrays.dtype) == dtype, f"dtype {arrays.dtype}")
        _require(arrays.shape == (size,), f"shape {arrays.shape}")
        # Not abs(): the most negative integer has no positive counterpart.
        inside = not arrays.size or (arrays.min() >= -limit and arrays.max() <= limit)
        _require(bool(inside), "a value out of range")


def _check_offer(reply: Reply, key: SigningKey) -> None:
    _require(reply.arrays is None, "an array in an offer")
    try:
        offer = Offer.model_validate_json(reply.document)
    except ValidationError as error:
        raise EgressError("an offer that cannot be read") from error
    _require(offer.site == reply.site, "an offer of another site")
    _require(offer.public_key == key.public, "an offer with another key")
    # One form for each offer, so that nothing can travel in spaces or in the order of its fields.
    canonical = canonical_json(offer.model_dump(mode="json")).decode()
    _require(reply.document == canonical, "an offer that is not in canonical form")


def _known(plan: Plan | None) -> Plan:
    if plan is None:
        raise EgressError("a result without a plan")
    return plan


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise EgressError(f"a reply may not leave this site: {found}")
