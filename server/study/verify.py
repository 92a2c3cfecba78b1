"""What a reply must be before it is folded.

The coordinator trusts nothing that is not signed by the site it asked: anyone who can reach the
SuperLink can push a message with another node's id, and replay old ones (Flower signs only a
timestamp). A reply counts only if it answers exactly this request, its signature is valid under
the site's key in the roster, its array is what the plan says, and the site's ledger did not move
back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from common.errors import RefusalCode
from common.figures.release import MOST_COUNT, Release, pooled_variance
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism
from common.wire.messages import OK, Reply, Request
from common.wire.signing import verify

_REFUSALS: Final = {
    RefusalCode.MALFORMED: "could not read the request",
    RefusalCode.WRONG_PLAN: "approved another plan",
    RefusalCode.NOT_APPROVED: "has not approved the plan",
    RefusalCode.PENDING: "waits for an administrator to approve the plan",
    RefusalCode.DENIED: "denied the plan",
    RefusalCode.POLICY: "its policy does not allow the plan",
    RefusalCode.DATA_UNAVAILABLE: "does not have the data set",
    RefusalCode.ROUND_OUT_OF_ORDER: "is at another round",
    RefusalCode.ROUND_CONFLICT: "has already answered this round for other weights",
    RefusalCode.LEDGER_BEHIND: "its privacy ledger is older than the one it sent before",
    RefusalCode.NUMERICS: "its numerics (versions, settings) differ from the plan's",
}


VALIDATED: Final = 2
"""Validation patients that a site may count for each one that it declares in training.

Training and validation are shares of the same patients, one to four unless the site says
otherwise, and what is declared is rounded down: an honest site stays far below."""
TAILS: Final = 7.0
"""Standard deviations that honest noise stays within: one cell in 10**12 does not."""
CUT_OFF: Final = "an update that was cut off at the largest entry"
IMPOSSIBLE: Final = "an impossible histogram: "
"""How the verdict on counts begins that no honest site could send."""
REFUSED: Final = "refused: "
"""How the verdict on a refusal begins that answers the request and is signed."""


@dataclass(frozen=True)
class CountLimits:
    """What an honest histogram can say, by public numbers alone.

    Attributes:
        shape: (classes, planes, bins).
        most: the most patients that the site may count.
        noise: standard deviation of a cell, rounding included; 0 for exact counts.
    """

    release: Release
    most: int
    noise: float


@dataclass(frozen=True)
class ReplyShape:
    """The array that a reply must carry; no array at all where ``length`` is 0.

    Attributes:
        dtype: its type.
        length: its number of entries.
        limit: the largest magnitude of an entry.
        document: whether a document goes with it.
        saturates: whether an entry at the limit is one that was cut off there.
        votes: what the histogram may say, where it is one.
    """

    dtype: str = ""
    length: int = 0
    limit: int = 0
    document: bool = False
    saturates: bool = False
    votes: CountLimits | None = None


NOTHING: Final = ReplyShape()
OFFER: Final = ReplyShape(document=True)


def update_shape(plan: Plan) -> ReplyShape:
    """What a site sends back for a round of training."""
    fixed_point = plan.study.fixed_point
    return ReplyShape(fixed_point.dtype, plan.weights, fixed_point.limit, saturates=True)


def counts_shape(plan: Plan) -> ReplyShape:
    """What a site sends back for an evaluation."""
    release = plan.release
    votes = CountLimits(
        release, most_validated(plan), math.sqrt(pooled_variance([cell_noise(plan)]))
    )
    return ReplyShape("int64", release.size, MOST_COUNT, votes=votes)


def most_validated(plan: Plan) -> int:
    """The most validation patients that a site may count, from its public numbers."""
    return min(plan.most_patients, VALIDATED * plan.declared_patients)


def cell_noise(plan: Plan) -> float:
    """Standard deviation of the noise in a cell of a site's histogram, before rounding."""
    mechanism = plan.mechanism
    return mechanism.cell_noise if isinstance(mechanism, PatientMechanism) else 0.0


def fault(reply: Reply, *, request: Request, site: str, key: str, shape: ReplyShape) -> str | None:
    """Why a reply cannot be used; None for one that can.

    Args:
        reply: what arrived.
        request: what was asked.
        site: whom.
        key: that site's public key, hexadecimal.
        shape: the array that the reply must carry.
    """
    # Origin and signature first: nothing else counts in a message that the site did not sign.
    # A refusal before the content, of which it has none.
    return (
        _wrong_origin(reply, site, key)
        or _wrong_answer(reply, request)
        or _refused(reply)
        or _wrong_content(reply, shape)
        or _wrong_ledger(reply, request)
    )


def _wrong_origin(reply: Reply, site: str, key: str) -> str | None:
    if reply.site != site:
        return "sent another site's reply"
    if not verify(key, reply.signed_bytes, reply.signature):
        return "bad signature"
    return None


def _wrong_answer(reply: Reply, request: Request) -> str | None:
    for name in ("study", "plan_hash", "round", "purpose"):
        found, wanted = getattr(reply, name), getattr(request, name)
        if found != wanted:
            return f"answered {name.replace('_', ' ')} {found}, was asked for {wanted}"
    if reply.request != request.identity:
        return "answered a request with other content"
    return None


def _refused(reply: Reply) -> str | None:
    if reply.code == OK:
        return None
    # Only codes of the list are repeated: free text from a site would reach every reader.
    if reply.code not in set(RefusalCode):
        return "refused, with a code that is not in the list"
    return f"{REFUSED}{_REFUSALS[RefusalCode(reply.code)]} ({reply.code})"


def _wrong_content(reply: Reply, shape: ReplyShape) -> str | None:
    if bool(reply.document) != shape.document:
        return "no document" if shape.document else "a document that was not asked for"
    if reply.arrays is None:
        return "no array" if shape.length else None
    if not shape.length:
        return "an array that was not asked for"
    return _wrong_array(reply.arrays, shape)


def _wrong_array(array: npt.NDArray[Any], shape: ReplyShape) -> str | None:
    if array.dtype.name != shape.dtype:
        return f"an array of {array.dtype.name}, not {shape.dtype}"
    if array.size != shape.length:
        return f"an array of {array.size} entries, not {shape.length}"
    largest = max(-int(array.min()), int(array.max()))  # int(): -(-2**31) overflows in int32
    if largest > shape.limit:
        return f"an entry beyond {shape.limit}"
    if shape.saturates and largest == shape.limit:
        return f"{CUT_OFF}, {shape.limit}"
    return None if shape.votes is None else _wrong_votes(array, shape.votes)


def _wrong_votes(array: npt.NDArray[Any], votes: CountLimits) -> str | None:
    """Why no honest site could count this; each sum only once its terms are known to be small."""
    counts, once = array.reshape(votes.release.shape), votes.release.once
    # A patient is in one of the cells that differ in these axes alone, and in no two.
    for axes in (once[first:] for first in range(len(once), -1, -1)):
        sums = counts.sum(axis=axes) if axes else counts
        together = counts.size // sums.size
        kind = "a cell" if together == 1 else f"{together} cells together"
        reach = TAILS * votes.noise * math.sqrt(counts.size / sums.size)
        least, most = int(sums.min()), int(sums.max())
        if least < -reach:
            return (
                f"{IMPOSSIBLE}{least} patients in {kind}; noise explains no less than {-reach:.0f}"
            )
        if most > votes.most + reach:
            return (
                f"{IMPOSSIBLE}{most} patients in {kind}; its declared patients allow {votes.most}, "
                f"and noise at most {reach:.0f} more"
            )
    return None


def _wrong_ledger(reply: Reply, request: Request) -> str | None:
    """Why a ledger head cannot follow the one that is known: shorter, or as long and different."""
    known, sent = request.ledger, reply.ledger
    # As long as known, and the same: right for a stored reply, which comes again unchanged.
    if sent.length < known.length:
        return f"its privacy ledger moved back, from {known.length} entries to {sent.length}"
    if sent.length == known.length and sent.hash != known.hash:
        return "its privacy ledger was rewritten"
    return None
