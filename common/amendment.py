"""Numerics that changed while a study runs, amended by consent of both sides.

A plan says what its arithmetic depends on, and a site that computes in another way takes no
part. After an update of torch, or on another processor, the coordinator may propose an
amendment: the site's record of today replaces the one before, for everything computed from then
on. The site's policy or a person consents. The plan remains the same: its hash, what was charged
and what may still be charged, because privacy follows from the mechanism and not from how a sum
is rounded.

Each amendment names the one before it, the first the plan, so that both sides mean the same
chain. **Noise is keyed to the newest** (:attr:`Arithmetic.identity` in place of the plan's
hash): noise that was drawn for one arithmetic is never added to a sum that was formed in
another, also for a round that was begun before the amendment and is computed after it. Nothing
of its first attempt had left the site; what leaves is one release, with its own noise, for the
one charge that was reserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from common.numerics import NumericsRecord
from common.plan import Agreed, Plan, read_agreed

FORMAT: Final = 1
MOST: Final = 64
"""Amendments of a plan; each asks a person."""
_HASH: Final = r"^[0-9a-f]{64}$"


class Amendment(Agreed):
    """What a site is asked to consent to.

    Attributes:
        format: of this document.
        plan: hash of the plan that it belongs to.
        number: 1 for a plan's first.
        before: hash of the amendment before it; of the first, the plan's.
        after: the last round that was completed when it was written, and so was computed
            under what was agreed on before.
        numerics: what decides the last bit from then on.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    plan: str = Field(pattern=_HASH)
    number: int = Field(ge=1, le=MOST)
    before: str = Field(pattern=_HASH)
    after: int = Field(ge=0, le=2**31 - 1)
    numerics: NumericsRecord


@dataclass(frozen=True)
class Arithmetic:
    """What a plan's rounds are computed with now.

    Attributes:
        identity: hash of the newest amendment, or of the plan where there is none; noise is
            keyed to it.
        number: of the newest amendment; 0 where there is none.
        numerics: what decides the last bit.
    """

    identity: str
    number: int
    numerics: NumericsRecord


def in_force(plan: Plan, amendments: Iterable[Amendment] = ()) -> Arithmetic:
    """What a plan's rounds are computed with, after the amendments that both sides agreed on."""
    newest = max(amendments, key=lambda each: each.number, default=None)
    if newest is None:
        return Arithmetic(plan.hash, 0, plan.numerics)
    return Arithmetic(newest.hash, newest.number, newest.numerics)


def amend(plan: Plan, before: Arithmetic, numerics: NumericsRecord, after: int) -> Amendment:
    """The amendment that follows on what is in force.

    Args:
        plan: that it belongs to.
        before: what is in force.
        numerics: of the site today.
        after: the last completed round.
    """
    return Amendment(
        plan=plan.hash,
        number=before.number + 1,
        before=before.identity,
        after=after,
        numerics=numerics,
    )


def read_amendment(text: str) -> Amendment:
    """Read an amendment that was received; raises as :func:`common.plan.read_agreed`."""
    return read_agreed(Amendment, text)
