"""Which plan is meant, of those that were proposed here.

A coordinator chooses the names of studies, and may propose any number of plans under one name. So
a plan is approved by its hash, and a name is enough only where one plan can be meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from client.consent import amendments
from client.records.approvals import Approval
from client.site import Site
from common.amendment import Amendment
from common.errors import SiteError
from common.plan import Plan
from common.text import reads_as_hash

_SHOWN_DIGITS: Final = 12
"""Digits of a plan's hash that are enough to name it."""


def find(
    site: Site, study: str, plan_hash: str | None = None, *, running: bool = False, by: str = ""
) -> Approval:
    """The plan that is meant; of several, the one that waits for a decision, else the newest.

    Raises:
        SiteError: there is none, or none with this hash, which the audit log then says.
    """
    found = [each for each in site.approvals.all() if is_called(each.plan, study)]
    if not found:
        names = sorted({each.plan.study.study.name for each in site.approvals.all()})
        raise SiteError(
            f"no study named {study} has arrived here",
            wanted=f"one of {', '.join(names)}" if names else None,
            remedy="if it was just started, wait a minute; see the names: consilium-site studies",
        )
    if plan_hash is not None:
        matching = [each for each in found if _begins(each.plan.hash, plan_hash)]
        # A coordinator can search for two plans whose hashes begin alike: then neither is meant.
        if len(matching) != 1:
            site.audit.append("approval.refused", study=study, wanted=plan_hash, by=by)
            raise _another_hash(study, found, plan_hash)
        found = matching
    wanted = "approved" if running else "pending"
    return next((each for each in reversed(found) if each.state == wanted), found[-1])


def amended(site: Site, study: str, named: str | None) -> tuple[Approval, Amendment] | None:
    """The running plan whose waiting amendment is named, by the amendment's own hash."""
    for approval in site.approvals.running():
        found = amendments.waiting(site.store, approval.plan.hash)
        if found and named and is_called(approval.plan, study) and _begins(found.hash, named):
            return approval, found
    return None


def require_only_one(site: Site, study: str, *, waiting: bool = False) -> None:
    """Refuse a name that several plans have: another plan might be approved than was read.

    Raises:
        SiteError: a coordinator gave several plans this name, or this beginning of a hash.
    """
    called = [each for each in site.approvals.all() if is_called(each.plan, study)]
    found = [each.plan.hash for each in called if each.state == "pending" or not waiting]
    if len(found) > 1:
        raise SiteError(
            "several plans of this name were proposed here",
            where=f"study {study}",
            found=f"SHA-256 {', '.join(reversed(found))}",
            wanted="one of them",
            remedy="read each: consilium-site show HASH; then approve one of them with --hash",
        )


def is_called(plan: Plan, study: str) -> bool:
    """Whether a name, or the beginning of a hash, means this plan."""
    if reads_as_hash(study):
        return plan.hash.startswith(study.lower())
    return plan.study.study.name == study


def _begins(whole: str, named: str) -> bool:
    return len(named) >= _SHOWN_DIGITS and whole.startswith(named.lower())


def _another_hash(study: str, found: Sequence[Approval], plan_hash: str) -> SiteError:
    hashes = ", ".join(each.plan.hash for each in reversed(found))
    return SiteError(
        "this is not the plan that you wanted to approve",
        where=f"study {study}",
        found=f"SHA-256 {hashes}",
        wanted=f"SHA-256 {plan_hash}",
        remedy="read the plan again: consilium-site show; then approve the hash that it shows",
    )
