"""Amendments of a plan's numerics: taken in, consented to, in force.

At most one waits for each plan. The policy consents where it approves plans by itself; else a
person does, by the amendment's hash, which ``consilium-site show`` shows. Nothing here reads a
patient, and nothing is charged: see :mod:`common.amendment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from client.records.approvals import POLICY, timestamp
from common.amendment import Amendment, Arithmetic, in_force, read_amendment
from common.errors import Refusal, RefusalCode
from common.numerics import NumericsRecord, Ticks, differences

if TYPE_CHECKING:
    from client.records.store import SiteDatabase
    from client.site import Site
    from common.plan import Plan
    from common.wire.messages import Request

MOST_SHOWN: Final = 80
"""Characters of a value that a coordinator chose: three versions take some sixty."""


def arithmetic(store: SiteDatabase, plan: Plan) -> Arithmetic:
    """What a plan's rounds are computed with, by all that both sides agreed on."""
    return in_force(plan, agreed(store, plan.hash))


def agreed(store: SiteDatabase, plan_hash: str) -> list[Amendment]:
    """The amendments that this site consented to, in their order."""
    return _select(store, plan_hash, "decided_by != ''")


def waiting(store: SiteDatabase, plan_hash: str) -> Amendment | None:
    """The amendment that a person has yet to decide on."""
    return next(iter(_select(store, plan_hash, "decided_by = ''")), None)


def take(site: Site, request: Request) -> None:
    """Take in an amendment that the coordinator proposes; policy consents or a person must.

    Raises:
        Silence: the plan's approval ended.
        Refusal: it is not this plan's next, not as this site computes today, or it waits.
    """
    plan = site.approvals.require(request.plan_hash).plan
    amendment = read_amendment(request.document)
    if amendment.plan != plan.hash:
        raise Refusal(RefusalCode.WRONG_PLAN, "the amendment is for another plan than the request")
    if plan.study.study.name != request.study:
        raise Refusal(RefusalCode.WRONG_PLAN, "the amendment is for another study than the request")
    site.ledger.require(request.ledger)
    before = arithmetic(site.store, plan)
    if before.identity == amendment.hash:  # asked again after a lost reply: it is in force
        return
    # Each follows the last: noise is keyed to the amendment in force, so both sides must have the
    # same one.
    _require_next(before, amendment)
    require_same(amendment.numerics, site.numerics(plan.study), ticks=True)
    automatic = site.file.policy.approval == "automatic"
    with site.store.transaction():
        known = waiting(site.store, plan.hash)
        if known is None or known.hash != amendment.hash:
            _keep(site.store, amendment)
            _note(site, "numerics.proposed", plan, amendment, POLICY)
        if automatic:
            consent(site, plan, amendment, by=POLICY)
    # Stored all the same: the coordinator asks again until a person has decided.
    if not automatic:
        raise Refusal(
            RefusalCode.PENDING, "a person at the site has not consented to the amendment yet"
        )


def consent(site: Site, plan: Plan, amendment: Amendment, *, by: str) -> None:
    """Put an amendment that waits in force.

    Raises:
        Refusal: the site computes differently by now, or a newer amendment replaced this one: the
            coordinator must propose it again.
    """
    require_same(amendment.numerics, site.numerics(plan.study), ticks=True)
    with site.store.transaction():
        decided = site.store.execute(
            "UPDATE amendments SET decided_by = ?, decided_at = ?"
            " WHERE plan_hash = ? AND hash = ? AND decided_by = ''",
            by,
            timestamp(),
            plan.hash,
            amendment.hash,
        )
        if not decided.rowcount:  # another process has taken one in meanwhile
            raise Refusal(RefusalCode.WRONG_PLAN, "the amendment was replaced or decided already")
        _note(site, "numerics.amended", plan, amendment, by)


def require_same(asked: NumericsRecord, today: NumericsRecord, *, ticks: bool = False) -> None:
    """Refuse numerics other than this site computes with today.

    Args:
        asked: of a plan or of an amendment.
        today: what this site would offer.
        ticks: whether the time slots must be the same too. Shorter ones would show how long a
            round takes, longer ones keep the site from its work.

    Raises:
        Refusal: ``numerics``.
    """
    changed = _changed(today, asked, ticks=ticks)
    if changed:
        raise Refusal.of_public(
            RefusalCode.NUMERICS,
            "this site computes with other numerics than the study asks for",
            where="numerics",
            found="; ".join(f"{name}: {ours}" for name, (ours, _) in changed.items()),
            wanted="; ".join(
                f"{name}: {_shown(name, each)}" for name, (_, each) in changed.items()
            ),
            remedy="restore the agreed versions and settings, or ask the coordinator to request a "
            "new offer or to amend the study's numerics for this site",
        )


def forget(store: SiteDatabase, plan_hash: str) -> None:
    """Keep nothing of a plan's amendments."""
    store.execute("DELETE FROM amendments WHERE plan_hash = ?", plan_hash)


def changes(before: NumericsRecord, after: NumericsRecord) -> tuple[str, ...]:
    """What an amendment changes, a line each; of the ticks too, which decide no bit."""
    changed = sorted(_changed(before, after, ticks=True).items())
    return tuple(f"{name}: {old} before, now {new}" for name, (old, new) in changed)


def _changed(
    before: NumericsRecord, after: NumericsRecord, *, ticks: bool
) -> dict[str, tuple[str, str]]:
    changed = differences(before, after)
    if ticks and before.ticks != after.ticks:
        changed["ticks, ms"] = _in_words(before.ticks), _in_words(after.ticks)
    return changed


def _shown(name: str, theirs: str) -> str:
    """A value of the coordinator's as the log and the screen show it.

    It is any text, and a long one could tell an administrator what to do in our name.
    """
    return "other kernels" if name == "choice" else theirs[:MOST_SHOWN]


def _in_words(ticks: Ticks) -> str:
    return f"{ticks.train} of a round, {ticks.evaluate} of an evaluation"


def _require_next(before: Arithmetic, amendment: Amendment) -> None:
    if (amendment.number, amendment.before) != (before.number + 1, before.identity):
        raise Refusal(
            RefusalCode.WRONG_PLAN,
            "the amendment does not follow the numerics in force",
            found=f"amendment {amendment.number} after {amendment.before}",
            wanted=f"amendment {before.number + 1} after {before.identity}",
        )
    if not differences(before.numerics, amendment.numerics):
        raise Refusal(RefusalCode.WRONG_PLAN, "the amendment changes nothing")


def _keep(store: SiteDatabase, amendment: Amendment) -> None:
    """In place of the one that waits, if one does."""
    store.execute(
        "INSERT OR REPLACE INTO amendments (plan_hash, number, hash, amendment)"
        " VALUES (?, ?, ?, ?)",
        amendment.plan,
        amendment.number,
        amendment.hash,
        amendment.text,
    )


def _select(store: SiteDatabase, plan_hash: str, which: str) -> list[Amendment]:
    rows = store.execute(
        f"SELECT amendment FROM amendments WHERE plan_hash = ? AND {which} ORDER BY number",  # noqa: S608 - no value in it
        plan_hash,
    )
    return [read_amendment(row["amendment"]) for row in rows]


def _note(site: Site, event: str, plan: Plan, amendment: Amendment, by: str) -> None:
    site.audit.append(
        event,
        study=plan.study.study.name,
        plan=plan.hash,
        amendment=amendment.hash,
        after=amendment.after,
        by=by,
    )
