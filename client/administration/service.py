"""What the administrator of a site asks and decides, on an open site.

Plain functions: a daemon's control service or a test calls them, and turns what they return into a
message or a page. All of it stays at the hospital. A decision is noted in the audit log with the
name of the person who made it, never with a patient's identifier.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from client.administration.explain import explain, explain_amendment
from client.administration.lookup import amended, find, is_called, require_only_one
from client.administration.views import (
    Approved,
    LedgerReport,
    OptedOut,
    Released,
    Shown,
    Status,
    StudyRow,
    left_of,
    row_of,
    spending_of,
)
from client.consent import amendments, decisions, problems
from client.consent.refusals import refused_proposals
from client.records import membership
from client.records.accounts import Accounts, everyone_joined
from client.records.approvals import Approval, State, timestamp
from client.records.membership import Draft
from client.site import Site
from common.amendment import Amendment
from common.errors import ConsiliumError, SiteError

ROOM: Final = 2**20
"""Bytes that must be free: the ledger, the audit log and a reply need them."""

log = structlog.get_logger(__name__)


def studies(site: Site) -> tuple[StudyRow, ...]:
    """Every plan that was ever proposed here, newest first."""
    accounts = Accounts(site.store)
    return tuple(row_of(site, each, accounts) for each in reversed(site.approvals.all()))


def show(site: Site, study: str, *, plan_hash: str | None = None, by: str = "") -> Shown:
    """One plan in plain words, with the cohort that it has, or would have now.

    For a plan whose cohort is not frozen this reads headers and labels, which may take minutes. It
    decodes no image, and writes nothing.

    Args:
        site: an open site.
        study: a study's name, or the beginning of a plan's hash, eight digits or more. Of
            several plans with one name, the one that waits for a decision, else the newest.
        plan_hash: as in :func:`approve`.
        by: who is about to approve it.

    Raises:
        SiteError: there is no such plan, or its hash is another, or several of that name wait.
    """
    amendment = amended(site, study, plan_hash)
    if amendment is not None:
        return _shown_amendment(site, *amendment)
    if plan_hash is None:
        require_only_one(site, study, waiting=True)
    approval = find(site, study, plan_hash, by=by)
    row = row_of(site, approval, Accounts(site.store))
    drafted, images = _drafted(site, approval)
    failed = [each for each in problems.last_failures(site) if each.study == row.name]
    lines = [("LAST FAILURE", (each.told, f"do: {each.remedy}")) for each in failed]
    sections = (*lines, *explain(site, approval, drafted, images))
    return Shown(row, sections, approval.plan.text)


def approve(
    site: Site, study: str, *, plan_hash: str | None = None, days: int | None = None, by: str
) -> Approved:
    """Approve a plan for today's patients, or approve it again.

    Tries the study's model and decodes the images, which may take minutes.

    Args:
        site: an open site.
        study: as in :func:`show`.
        plan_hash: what was shown; a whole hash, or its first twelve digits or more. Of an
            amendment that waits, it consents to that, and the approval stays as it is.
        days: how long the approval holds; by default as the policy says.
        by: who approves.

    Raises:
        SiteError: there is no such plan, or its hash is another, or it is over.
        Refusal: the policy forbids it, or too many studies run.
        ConsiliumError: images, labels or lists cannot be read.
    """
    amendment = amended(site, study, plan_hash)
    if amendment is not None:
        return _amend(site, *amendment, by=by)
    if plan_hash is None:
        require_only_one(site, study)
    approval = find(site, study, plan_hash, by=by)
    _require_open(approval)
    most = site.file.policy.approval_days
    if days is not None and not 1 <= days <= most:
        raise SiteError(
            "an approval cannot hold for so long",
            where="[policy] approval_days",
            found=f"{days} days",
            wanted=f"1 to {most} days",
            remedy="name fewer days, or raise approval_days in the site file",
        )
    expires, drafted = decisions.approve(site, approval, days=days or most, by=by)
    plan = approval.plan
    return Approved(
        plan.study.study.name,
        plan.hash,
        expires,
        plan.mechanism.epsilon,
        drafted.count("train") + drafted.count("validation"),
        len(drafted.left_out),
    )


def deny(site: Site, study: str, *, by: str) -> Released:
    """Refuse the plans of a study that wait for a decision; where none does, stop the study.

    Raises:
        SiteError: there is no such plan, or it is over.
    """
    approval = find(site, study)
    _require_open(approval)
    waited = approval.state in ("pending", "denied")
    return _end(site, study, approval, "denied" if waited else "stopped", by=by)


def stop(site: Site, study: str, *, by: str) -> Released:
    """End a study now: its keys are erased, and from now on the site is silent about it.

    All running plans of that name end, since a coordinator decides how many there are. The caller
    also ends the worker: what that computes no longer leaves, but it may compute for a while.

    Raises:
        SiteError: there is no such plan, or it was never approved, or it is over.
    """
    approval = find(site, study, running=True)
    _require_open(approval)
    if approval.state in ("pending", "denied"):
        raise SiteError(
            "the study does not run",
            where=f"study {approval.plan.study.study.name}",
            found=approval.state,
            remedy="to refuse a plan that waits for a decision: consilium-site deny",
        )
    return _end(site, study, approval, "stopped", by=by)


def _end(site: Site, study: str, approval: Approval, state: State, *, by: str) -> Released:
    """End a plan, and all plans of its name in the same state; what had left of all of them."""
    alike = (each for each in site.approvals.all() if each.state == approval.state)
    others = (each.plan for each in alike if is_called(each.plan, study))
    plans = [approval.plan, *(plan for plan in others if plan.hash != approval.plan.hash)]
    for plan in plans:
        decisions.end(site, plan, state, by=by)
    left = [left_of(site, plan, state) for plan in plans]
    # Epsilons too: each is of another patient perhaps, so that the sum is a bound for all.
    summed = ("rounds", "replies", "bytes", "epsilon")
    totals = {name: sum(getattr(each, name) for each in left) for name in summed}
    return replace(left[0], **totals)


def pause(site: Site, *, by: str) -> None:
    """Take no new work until :func:`resume`, also after a restart."""
    with site.store.transaction():
        site.store.keep("paused", f"{timestamp()} {by}")
        site.audit.append("site.paused", by=by)


def resume(site: Site, *, by: str) -> None:
    """Take work again."""
    with site.store.transaction():
        site.store.keep("paused", "")
        site.audit.append("site.resumed", by=by)


def is_paused(site: Site) -> bool:
    """Whether a person told the site to take no new work."""
    return bool(site.store.fact("paused"))


def opt_out(site: Site, patients: Sequence[str], *, by: str) -> OptedOut:
    """Leave patients out of every study from now on; those that run go on without them.

    The program's log names the person who asked for it. The audit log does not: it is shown to
    others, and no line of it may follow from a patient.

    Args:
        site: an open site.
        patients: PatientIDs (0010,0020) as the images have them.
        by: the person who asks for it.

    Raises:
        SiteError: the list cannot be read or written, or an identifier is not one.
    """
    # Read before it is written: only this tells which patients were not on it.
    absent = site.cohorts.opt_outs.read().pseudonyms
    pseudonyms = site.pseudonyms
    new = {name: {pseudonyms.of(name), pseudonyms.written(name)} for name in patients}
    added, known = site.cohorts.opt_outs.add(patients)
    log.info("patients.opted-out", by=by)
    names = {each.plan.hash: each.plan.study.study.name for each in site.approvals.running()}
    held = membership.take_out(site.store, site.cohorts.absent(), names)
    unknown = tuple(
        name
        for name, known_as in new.items()
        if not known_as & absent
        and not any(
            membership.is_known(site.store, each) for each in everyone_joined(site.store, known_as)
        )
    )
    return OptedOut(added, known, tuple(names[each] for each in held), unknown)


def ledger(site: Site) -> LedgerReport:
    """What the patients have spent, study by study and in all."""
    policy, head, accounts = site.file.policy, site.ledger.head(), Accounts(site.store)
    charged = {row["plan_hash"] for row in site.ledger.charges()}
    spendings = (
        spending_of(site, approval, accounts)
        for approval in site.approvals.all()
        # Also plans that were denied or wait again, if they were charged before: that stays spent.
        if approval.state not in ("pending", "denied") or approval.plan.hash in charged
    )
    return LedgerReport(
        studies=tuple(spendings),
        limit_per_study=policy.max_epsilon_per_study,
        limit_total=policy.max_epsilon_total,
        delta=policy.delta,
        most_spent=policy.spent_before + site.ledger.most_spent(policy.limits),
        length=head.length,
        head=head.hash,
    )


def status(site: Site) -> Status:
    """The state of the site."""
    _, _, by = site.store.fact("paused").partition(" ")
    return Status(
        site=site.name,
        known_key=site.known_seed is not None,
        paused_by=by,
        studies=studies(site),
        refused_proposals=refused_proposals(site),
        audit_length=site.audit.refresh().length,
        warnings=_warnings(site),
    )


def _warnings(site: Site) -> tuple[tuple[str, str], ...]:
    found = list(_unwritable(site))
    found += [(each.told, each.remedy) for each in problems.last_failures(site)]
    found += problems.crowded(site)
    if site.known_seed is not None:
        remedy = "use no images of patients with this site, or start it without --known-seed"
        found.append(("NOT PRIVATE: KNOWN KEY", remedy))
    for approval in site.approvals.running():
        if approval.frozen and approval.ignored != site.cohorts.ignored:
            error = site.cohorts.told_apart_otherwise(approval)
            found.append((f"{error.details['where']}: {error.what}", error.details["do"]))
        if amendments.waiting(site.store, approval.plan.hash) is not None:
            name = approval.plan.study.study.name
            what = f"{name} waits for your consent to this site's new numerics"
            remedy = f"read what would change: consilium-site show {name}"
            found.append((what, f"{remedy}; until then the study continues without this site"))
    if site.file.policy.allow_no_privacy:
        remedy = "remove allow_no_privacy from [policy] in the site file"
        found.append(("the policy allows studies without privacy", remedy))
    if site.file.policy.approval == "automatic":
        remedy = 'to be asked, set approval = "ask" in [policy] of the site file'
        found.append(("plans that the policy allows are approved without a person", remedy))
    return tuple(found)


def _unwritable(site: Site) -> Iterator[tuple[str, str]]:
    """Whether nothing can be written now: then no failure can be kept either."""
    try:
        with tempfile.TemporaryFile(dir=site.state) as probe:
            os.posix_fallocate(probe.fileno(), 0, ROOM)
    except OSError as error:
        yield (
            "this site answers no request, because nothing can be written in its state folder: "
            f"{error.strerror}",
            "free disk space, or raise the quota of the daemon's user; the disk must not be "
            "mounted read-only. The site then continues by itself",
        )


def _shown_amendment(site: Site, approval: Approval, amendment: Amendment) -> Shown:
    row = replace(
        row_of(site, approval, Accounts(site.store)), plan_hash=amendment.hash, state="pending"
    )
    return Shown(row, explain_amendment(site, approval.plan, amendment), amendment.text)


def _amend(site: Site, approval: Approval, amendment: Amendment, *, by: str) -> Approved:
    plan = approval.plan
    amendments.consent(site, plan, amendment, by=by)
    members = site.ledger.members(plan.hash)
    return Approved(
        plan.study.study.name,
        amendment.hash,
        approval.expires,
        plan.mechanism.epsilon,
        members.get("train", 0) + members.get("validation", 0),
        approval.left_out,
    )


def _require_open(approval: Approval) -> None:
    if approval.state == "closed":
        raise SiteError(
            "the study is over",
            where=f"study {approval.plan.study.study.name}",
            found=f"closed {approval.decided}",
            remedy="nothing of it leaves any more; to continue, ask the coordinator for a new plan",
        )


def _drafted(site: Site, approval: Approval) -> tuple[Draft | None, int]:
    """The cohort that a plan would have today, and bytes of its images on disk.

    None where it is frozen, over, or cannot be read.
    """
    if approval.frozen or approval.state == "closed":
        return None, 0
    with suppress(ConsiliumError):
        return decisions.preview(site, approval.plan)
    return None, 0
