"""What policy and people decide about plans, on an open site.

Each decision is one transaction, whose last act is the line in the audit log: what took
effect stands there, and who decided it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import structlog

from client import accounts
from client.approvals import POLICY, UNREAD, Approval, State, timestamp
from client.dataset import Cohort
from client.policy import require_acceptable
from client.site import Site
from common.errors import DataError, LabelError, Refusal, RefusalCode
from common.logs import place
from common.messages import LARGEST
from common.plan import Plan

log = structlog.get_logger(__name__)

MOST_PENDING: Final = 64
"""Plans that may wait for a person at once; a coordinator cannot fill the store with more."""


def consider(site: Site, plan: Plan) -> None:
    """Hold a plan that is new, or expired, against this site; approve it or let it wait.

    Raises:
        Refusal: the plan cannot be approved here, whoever decides.
    """
    require_acceptable(plan, site)
    if site.file.policy.approval != "automatic":
        _ask(site, plan)
        return
    try:
        _approve_by_policy(site, plan)
    except (DataError, LabelError, Refusal) as error:
        # One code for whatever depends on the patients, and why stays here: who proposes plans
        # would otherwise learn, plan by plan and before anybody consented, which labels and
        # modalities there are, and who is left without a budget. Of errors not even their
        # words are logged: they count rows and patients.
        why = error.what if isinstance(error, Refusal) else type(error).__name__
        log.warning("plan.declined", why=why, at=place(error), do="run consilium-site check")
        raise Refusal(RefusalCode.POLICY, "the site's patients do not allow the plan") from error


def _approve_by_policy(site: Site, plan: Plan) -> None:
    cohort = site.cohort(plan.study)
    expires = timestamp(site.file.policy.approval_days)
    with site.store.transaction():
        key = site.new_study_key(plan.hash)
        site.approvals.add(plan, cohort.fingerprint, key, expires=expires)
        _enrol(site, plan, cohort)
        site.ledger.refuse_unaffordable(plan, site.file.policy.limits)
        _note(site, "study.approved", plan, expires, POLICY)


def _ask(site: Site, plan: Plan) -> None:
    """Let a plan wait for a person.

    Whatever could be wrong with its patients is for that person alone to see, and comes up
    when the plan is approved.
    """
    _require_room(site)
    cohort = None
    with suppress(DataError, LabelError):
        cohort = site.cohort(plan.study)
    with site.store.transaction():
        site.approvals.add(plan, UNREAD if cohort is None else cohort.fingerprint, None)
        if cohort is not None:
            _enrol(site, plan, cohort)
            # What it would cost is computed here and kept: whoever shows the plan just reads it.
            site.ledger.forecast(plan, site.file.policy.limits)
        _note(site, "study.proposed", plan, "", POLICY)


def approve(site: Site, approval: Approval, *, days: int, by: str) -> str:
    """Approve a recorded plan for the patients of today.

    The key stays where the patients are the same; else it is drawn anew, so that no noise
    ever meets other patients.

    Returns:
        When the approval ends.

    Raises:
        Refusal: the policy or a patient's account forbids it.
    """
    plan = approval.plan
    require_acceptable(plan, site)
    site.forget()
    cohort = site.cohort(plan.study)
    kept = approval.key if approval.cohort == cohort.fingerprint else None
    expires = timestamp(days)
    with site.store.transaction():
        key = kept or site.new_study_key(plan.hash)
        site.approvals.approve(plan.hash, cohort.fingerprint, key, by=by, expires=expires)
        _enrol(site, plan, cohort)
        site.ledger.refuse_unaffordable(plan, site.file.policy.limits)
        _note(site, "study.approved", plan, expires, by)
    site.store.erase()
    return expires


def end(site: Site, plan: Plan, state: State, *, by: str) -> None:
    """End a plan: its key is erased."""
    with site.store.transaction():
        site.approvals.end(plan.hash, state, by=by)
        _note(site, f"study.{state}", plan, "", by)
    site.store.erase()


def close(site: Site, plan_hash: str, acknowledged: int) -> None:
    """End a study that its coordinator is done with; nothing of it will be asked for again.

    A plan that nobody had decided on is forgotten: else a coordinator could fill the store
    with plans that it takes back.
    """
    approval = site.approvals.find(plan_hash)
    with site.store.transaction():
        site.replies.acknowledge(plan_hash, acknowledged)
        if approval is not None and approval.state != "closed":
            if approval.state == "pending" and accounts.forget(site.store, plan_hash):
                site.approvals.forget(plan_hash)
            else:
                site.approvals.close(plan_hash)
            _note(site, "study.closed", approval.plan, "", "coordinator")
    site.store.erase()


def withdraw(site: Site) -> tuple[Plan, ...]:
    """End the approval of every running plan that holds a patient who takes no part.

    What was computed for it and not yet acknowledged is forgotten too.

    Raises:
        SiteError: the list of those who take no part cannot be read.
    """
    hashes = site.ledger.plans_with(site.opt_outs.read().pseudonyms)
    found = [approval.plan for approval in map(site.approvals.find, hashes) if approval]
    for plan in found:
        with site.store.transaction():
            site.approvals.end(plan.hash, "withdrawn", by="opt-out")
            site.replies.acknowledge(plan.hash, LARGEST)
            _note(site, "study.withdrawn", plan, "", "opt-out")
        site.store.erase()
    return tuple(found)


def _require_room(site: Site) -> None:
    waiting = sum(each.state == "pending" for each in site.approvals.all())
    if waiting >= MOST_PENDING:
        raise Refusal(
            RefusalCode.POLICY,
            "too many plans wait for a person",
            found=waiting,
            wanted=f"at most {MOST_PENDING}",
            remedy="approve or deny those that wait",
        )


def _enrol(site: Site, plan: Plan, cohort: Cohort) -> None:
    """Freeze the cohort."""
    patients = {
        part: tuple(patient.pseudonym for patient in cohort.part(part))
        for part in ("train", "validation", "test")
    }
    site.ledger.enrol(plan.hash, patients)


def _note(site: Site, event: str, plan: Plan, expires: str, by: str) -> None:
    more = {"expires": expires} if expires else {}
    site.audit.append(event, study=plan.study.study.name, plan=plan.hash, by=by, **more)
