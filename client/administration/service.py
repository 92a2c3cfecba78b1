"""What the administrator of a site asks and decides, on an open site.

Every function here is plain: whoever holds the site open calls it, a daemon's control service
or a test, and turns what it gives into a message or a page. All of it stays at the hospital.
A decision is noted in the audit log with who made it, never with a patient's identifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from client.administration.explain import bytes_of, explain, explain_amendment
from client.administration.views import (
    Approved,
    LedgerReport,
    Left,
    OptedOut,
    Shown,
    Spending,
    Status,
    StudyRow,
)
from client.consent import amendments, decisions, problems
from client.consent.rejected import declined
from client.records import audit_log, membership
from client.records.accounts import Accounts
from client.records.approvals import Approval, State, timestamp
from client.records.membership import Draft
from client.site import Site
from common.amendment import Amendment
from common.errors import ConsiliumError, SiteError
from common.plan import Plan
from common.study.study_file import reads_as_hash

log = structlog.get_logger(__name__)

__all__ = [
    "Approved",
    "LedgerReport",
    "Left",
    "OptedOut",
    "Shown",
    "Spending",
    "Status",
    "StudyRow",
    "approve",
    "declined",
    "deny",
    "is_paused",
    "ledger",
    "opt_out",
    "pause",
    "resume",
    "show",
    "status",
    "stop",
    "studies",
]
_SHOWN_DIGITS: Final = 12
"""Digits of a plan's hash that stand for what was shown."""
_ENDED: Final = frozenset({"closed"})


def studies(site: Site) -> tuple[StudyRow, ...]:
    """Every plan that was ever proposed here, newest first."""
    accounts = Accounts(site.store)
    return tuple(_row(site, each, accounts) for each in reversed(site.approvals.all()))


def show(site: Site, study: str, *, plan_hash: str | None = None, by: str = "") -> Shown:
    """One plan in plain words, with whom it would find; of one that runs, with whom it has found.

    Reads the headers and labels for a plan whose cohort is not frozen, which may take minutes;
    decodes no image, and writes nothing.

    Args:
        site: an open site.
        study: a study's name, or the beginning of a plan's hash, eight digits or more. Of
            several plans of one name, the one that waits, else the newest.
        plan_hash: as in :func:`approve`.
        by: who is about to approve it.

    Raises:
        SiteError: there is no such plan, or its hash is another, or several of that name wait.
    """
    amended = _amended(site, study, plan_hash)
    if amended is not None:
        return _shown_amendment(site, *amended)
    if plan_hash is None:
        _require_only_one(site, study, waiting=True)
    approval = _find(site, study, plan_hash, by=by)
    row = _row(site, approval, Accounts(site.store))
    drafted, images = _drafted(site, approval)
    return Shown(row, explain(site, approval, drafted, images), approval.plan.text)


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
    amended = _amended(site, study, plan_hash)
    if amended is not None:
        return _amend(site, *amended, by=by)
    if plan_hash is None:
        _require_only_one(site, study)
    approval = _find(site, study, plan_hash, by=by)
    _require_open(approval)
    most = site.file.policy.approval_days
    if days is not None and not 1 <= days <= most:
        raise SiteError(
            "an approval cannot hold for so long",
            where="[policy] approval_days",
            found=f"{days} days",
            wanted=f"1 to {most} days",
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


def deny(site: Site, study: str, *, by: str) -> Left:
    """Say no to the plans of a study that wait; where none does, it is stopped.

    Raises:
        SiteError: there is no such plan, or it is over.
    """
    approval = _find(site, study)
    _require_open(approval)
    waited = approval.state in ("pending", "denied")
    return _end(site, study, approval, "denied" if waited else "stopped", by=by)


def stop(site: Site, study: str, *, by: str) -> Left:
    """End a study now: its keys are erased, and from here on the site is silent about it.

    All running plans of that name end: how many there are, a coordinator decides.

    Whoever runs a worker ends it too: what it computes is not let out any more, but it may
    compute for a while.

    Raises:
        SiteError: there is no such plan, or it was never approved, or it is over.
    """
    approval = _find(site, study, running=True)
    _require_open(approval)
    if approval.state in ("pending", "denied"):
        raise SiteError(
            "the study does not run",
            where=f"study {approval.plan.study.study.name}",
            found=approval.state,
            remedy="consilium-site deny says no to a plan that waits",
        )
    return _end(site, study, approval, "stopped", by=by)


def _end(site: Site, study: str, approval: Approval, state: State, *, by: str) -> Left:
    """End a plan, and with it those of the same name that stand as it did; what left of all."""
    alike = (each for each in site.approvals.all() if each.state == approval.state)
    others = (each.plan for each in alike if _is_called(each.plan, study))
    plans = [approval.plan, *(plan for plan in others if plan.hash != approval.plan.hash)]
    for plan in plans:
        decisions.end(site, plan, state, by=by)
    first, *more = (_left(site, plan, state) for plan in plans)
    return replace(
        first,
        rounds=first.rounds + sum(each.rounds for each in more),
        replies=first.replies + sum(each.replies for each in more),
        bytes=first.bytes + sum(each.bytes for each in more),
        epsilon=first.epsilon + sum(each.epsilon for each in more),
    )


def pause(site: Site, *, by: str) -> None:
    """Take no new work until :func:`resume`; outlives a restart."""
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

    Who said so is logged, and not in the audit log, which is shown to others: no line of it
    comes of a patient.

    Args:
        site: an open site.
        patients: PatientIDs (0010,0020) as the images have them.
        by: who says so.

    Raises:
        SiteError: the list cannot be read or written, or an identifier is none.
    """
    absent = site.cohorts.opt_outs.read().pseudonyms
    new = {name: site.pseudonyms.of(name) for name in patients}
    added, known = site.cohorts.opt_outs.add(patients)
    log.info("patients.opted-out", by=by)
    names = {each.plan.hash: each.plan.study.study.name for each in site.approvals.running()}
    held = membership.take_out(site.store, site.cohorts.absent(), names)
    unknown = tuple(
        name
        for name, pseudonym in new.items()
        if pseudonym not in absent and not membership.is_known(site.store, pseudonym)
    )
    return OptedOut(added, known, tuple(names[each] for each in held), unknown)


def ledger(site: Site) -> LedgerReport:
    """What the patients have spent, study by study and in all."""
    policy, head, accounts = site.file.policy, site.ledger.head(), Accounts(site.store)
    charged = {row["plan_hash"] for row in site.ledger.charges()}
    spendings = (
        _spending(site, approval, accounts)
        for approval in site.approvals.all()
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
    """How the site stands."""
    since, _, by = site.store.fact("paused").partition(" ")
    torn = site.state / audit_log.TORN
    head = site.audit.refresh()
    return Status(
        site=site.name,
        known_key=site.known_seed is not None,
        paused_by=by,
        paused_since=since,
        studies=studies(site),
        declined=declined(site),
        audit_length=head.length,
        audit_head=head.hash,
        torn=torn.stat().st_size if torn.exists() else 0,
        warnings=_warnings(site),
    )


def _warnings(site: Site) -> tuple[tuple[str, str], ...]:
    found = []
    trouble = problems.latest(site)
    if trouble is not None:
        study = f"{trouble.study or 'a request'}"
        what = f"{study} got no answer at {trouble.at}: {trouble.error} at {trouble.where}"
        found.append((what, trouble.remedy))
    found += problems.crowded(site)
    if site.known_seed is not None:
        remedy = "never give this site patients' images; start it without a known seed"
        found.append(("NOT PRIVATE: KNOWN KEY", remedy))
    for approval in site.approvals.running():
        if amendments.waiting(site.store, approval.plan.hash) is not None:
            name = approval.plan.study.study.name
            what = f"{name} waits for consent to this site's new numerics, and goes on without it"
            found.append((what, f"consilium-site show {name} says what is to change"))
    if site.file.policy.allow_no_privacy:
        remedy = "take allow_no_privacy out of the site file's [policy]"
        found.append(("the policy allows studies without privacy", remedy))
    if site.file.policy.approval == "automatic":
        remedy = 'set approval = "ask" in the site file\'s [policy] to be asked'
        found.append(("plans within the policy are approved without a person", remedy))
    return tuple(found)


def _find(
    site: Site, study: str, plan_hash: str | None = None, *, running: bool = False, by: str = ""
) -> Approval:
    """The plan that is meant; of several, the one to be decided on, else the newest.

    That somebody wanted another hash approved is noted.
    """
    found = [each for each in site.approvals.all() if _is_called(each.plan, study)]
    if not found:
        names = sorted({each.plan.study.study.name for each in site.approvals.all()})
        raise SiteError(
            "no such study was ever proposed here",
            where="study",
            found=study,
            wanted=f"one of {', '.join(names)}" if names else "a study; none was proposed yet",
        )
    if plan_hash is not None:
        matching = [each for each in found if _is_hash(each.plan, plan_hash)]
        if len(matching) != 1:  # of two that begin alike, neither is meant
            site.audit.append("approval.refused", study=study, wanted=plan_hash, by=by)
            raise _another_hash(study, found, plan_hash)
        found = matching
    wanted = "approved" if running else "pending"
    return next((each for each in reversed(found) if each.state == wanted), found[-1])


def _amended(site: Site, study: str, named: str | None) -> tuple[Approval, Amendment] | None:
    """The running plan of a study whose amendment waits and is named by its own hash."""
    for approval in site.approvals.running():
        found = amendments.waiting(site.store, approval.plan.hash)
        if found and named and _is_called(approval.plan, study) and _begins(found.hash, named):
            return approval, found
    return None


def _shown_amendment(site: Site, approval: Approval, amendment: Amendment) -> Shown:
    row = replace(
        _row(site, approval, Accounts(site.store)), plan_hash=amendment.hash, state="pending"
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


def _require_only_one(site: Site, study: str, *, waiting: bool = False) -> None:
    """A plan that came after the one that was shown must not be approved in its place.

    A coordinator may give any number of plans one name, or the beginning of another's hash.
    """
    called = [each for each in site.approvals.all() if _is_called(each.plan, study)]
    found = [each.plan.hash for each in called if each.state == "pending" or not waiting]
    if len(found) > 1:
        raise SiteError(
            "several plans of this name were proposed here",
            where=f"study {study}",
            found=f"SHA-256 {', '.join(reversed(found))}",
            wanted="one of them",
            remedy="read each with consilium-site show and its hash in place of the name, then "
            "approve one with --hash",
        )


def _is_called(plan: Plan, study: str) -> bool:
    """Whether a plan is meant: what reads as a hash is no study's name."""
    if reads_as_hash(study):
        return plan.hash.startswith(study.lower())
    return plan.study.study.name == study


def _is_hash(plan: Plan, plan_hash: str) -> bool:
    return _begins(plan.hash, plan_hash)


def _begins(whole: str, named: str) -> bool:
    return len(named) >= _SHOWN_DIGITS and whole.startswith(named.lower())


def _another_hash(study: str, found: Sequence[Approval], plan_hash: str) -> SiteError:
    hashes = ", ".join(each.plan.hash for each in reversed(found))
    return SiteError(
        "the plan is another than the one that was to be approved",
        where=f"study {study}",
        found=f"SHA-256 {hashes}",
        wanted=f"SHA-256 {plan_hash}",
        remedy="read the plan again with consilium-site show, then approve the hash it shows",
    )


def _require_open(approval: Approval) -> None:
    if approval.state in _ENDED:
        raise SiteError(
            "the study is over",
            where=f"study {approval.plan.study.study.name}",
            found=f"closed {approval.decided}",
            remedy="nothing of it leaves any more; a new study needs a new plan",
        )


def _row(site: Site, approval: Approval, accounts: Accounts) -> StudyRow:
    plan = approval.plan
    return StudyRow(
        name=plan.study.study.name,
        title=plan.study.study.title,
        plan_hash=plan.hash,
        state=approval.standing,
        round=site.ledger.last_round(plan.hash, "train"),
        rounds=plan.study.training.rounds,
        epsilon_spent=site.ledger.spent_on(plan, accounts),
        epsilon=plan.mechanism.epsilon,
        proposed=approval.proposed,
        decided=approval.decided if approval.by else "",
        by=approval.by,
        expires=approval.expires,
        warnings=plan.warnings,
    )


def _left(site: Site, plan: Plan, state: str) -> Left:
    progress = site.ledger.progress(plan.hash)
    rounds, evaluations = progress["train", "committed"], progress["validation", "committed"]
    update, counts = bytes_of(plan)
    return Left(
        study=plan.study.study.name,
        plan_hash=plan.hash,
        state=state,
        rounds=rounds,
        replies=rounds + evaluations,
        bytes=rounds * update + evaluations * counts,
        epsilon=site.ledger.spent_on(plan),
    )


def _spending(site: Site, approval: Approval, accounts: Accounts) -> Spending:
    plan, progress = approval.plan, site.ledger.progress(approval.plan.hash)
    by_part = {
        part: progress[part, "committed"] + progress[part, "reserved"]
        for part in ("train", "validation")
    }
    members = site.ledger.members(plan.hash)
    return Spending(
        study=plan.study.study.name,
        plan_hash=plan.hash,
        state=approval.standing,
        rounds=by_part["train"],
        evaluations=by_part["validation"],
        epsilon_spent=site.ledger.spent_on(plan, accounts),
        epsilon=plan.mechanism.epsilon,
        patients=members.get("train", 0) + members.get("validation", 0),
        gone=membership.told(membership.departures(site.store, plan.hash)),
        left_out=approval.left_out,
    )


def _drafted(site: Site, approval: Approval) -> tuple[Draft | None, int]:
    """Whom a plan would find today, and bytes of their images on disk.

    None where it is frozen, over, or nobody can be read.
    """
    if approval.frozen or approval.state in _ENDED:
        return None, 0
    with suppress(ConsiliumError):
        return decisions.preview(site, approval.plan)
    return None, 0
