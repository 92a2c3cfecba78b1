"""What the policy and the site's staff decide about plans.

Each decision is one transaction that ends with its line in the audit log: what took effect, and who
decided it. Which patients a plan then finds is no decision: they are read afterwards, change no
answer, and are kept in the store alone, since the audit log is shown to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog

from client.consent import amendments, disk, problems
from client.consent.features import are_due, featured, forget, tick
from client.consent.policy import require_acceptable, require_trainable
from client.data.cohort import image_shape
from client.process_limits import require_memory
from client.records import accounts, membership
from client.records.approvals import POLICY, Approval, Silence, State, timestamp
from client.records.membership import Draft, FrozenPatient
from client.site import Site
from common.errors import Refusal, RefusalCode, SiteError
from common.plan import Plan

log = structlog.get_logger(__name__)

MOST_PENDING: Final = 64
"""Plans that may wait for a person at once; a coordinator cannot fill the store with more."""
DELETING: Final = 1000
"""Milliseconds that decoded images are given to go: how many there are takes longer."""


def consider(site: Site, plan: Plan) -> None:
    """Hold a plan that is new, or expired, against this site; approve it or let it wait.

    No patient is looked at: what is decided here, and told, follows from public numbers.

    Raises:
        Refusal: the plan cannot be approved here, by a person or by the policy.
    """
    policy = site.file.policy
    automatic = policy.approval == "automatic"
    # Trying the model may take minutes: a plan that waits for a person is not tried before.
    if automatic:
        require_trainable(plan, site)
    else:
        require_acceptable(plan, site)
    # Under the store's lock: two proposals at once must not both get the last place.
    with site.store.transaction():
        if automatic:
            _require_running_below_limit(site)
        else:
            _require_pending_below_limit(site)
        accounts.foresee(site.store, plan)
        if automatic:
            expires = timestamp(policy.approval_days)
            site.approvals.add(plan, site.keys.new_study_key(plan.hash), expires=expires)
            _note(site, "study.approved", plan, expires, POLICY)
        else:
            site.approvals.add(plan)
            _note(site, "study.proposed", plan, "", POLICY)


def approve(site: Site, approval: Approval, *, days: int, by: str) -> tuple[str, Draft]:
    """Approve a recorded plan for the patients of today.

    Noise is keyed to the patients of a round too, so a plan that runs keeps its key.

    Returns:
        When the approval ends, and its cohort.

    Raises:
        Refusal: the policy forbids it, or too many studies run.
        ModelError: the study's model cannot be trained privately here.
        SiteError: a part holds more patients than the site file says it may.
        ConsiliumError: images, labels or lists cannot be read, or there is no room for them.
    """
    plan = approval.plan
    require_trainable(plan, site)
    site.cohorts.forget()  # a person approves the patients of this moment
    try:
        return _approved(site, approval, days=days, by=by)
    finally:
        disk.tidy(site)  # if it was not approved after all, its images are not kept


def _approved(site: Site, approval: Approval, *, days: int, by: str) -> tuple[str, Draft]:
    plan = approval.plan
    today = membership.places(
        site.cohorts.read(plan.study, most=disk.bytes_free_for(site, plan.study))
    )
    expires = timestamp(days)
    runs = approval.standing == "approved"
    with site.store.transaction():
        if not runs:
            _require_running_below_limit(site)
        # A new key for the same rounds would draw other noise for what was released already.
        key = approval.key if runs else None
        site.approvals.add(plan, key or site.keys.new_study_key(plan.hash), by=by, expires=expires)
        drafted = _draft(site, plan, today)
        _require_uncrowded(plan, drafted)
        _freeze(site, plan, drafted)
        _note(site, "study.approved", plan, expires, by)
    site.store.erase()
    return expires, drafted


def preview(site: Site, plan: Plan) -> tuple[Draft, int]:
    """Who would be in a plan if it were approved now, and what its images would take on disk.

    Nothing is decoded: files that cannot be decoded are found later. Which identifiers are one
    patient's is written down, as whenever files are read.

    Returns:
        The draft, and bytes.

    Raises:
        ConsiliumError: images, labels or lists cannot be read.
    """
    found = disk.look(site, plan.study)
    today = {patient: FrozenPatient(part, "") for patient, part in found.parts.items()}
    return _draft(site, plan, today), found.bytes


def freeze_pending(site: Site) -> None:
    """Freeze the cohort of every plan that was approved without one, and compute its features.

    Call it after the answer has left. Where the site's images or labels cannot be read now, its
    staff is told, and the plan's first round tries again. How long it takes depends on patients,
    and the next request waits for it: so it too ends at a tick.
    """
    ticks = 0
    try:
        for approval in site.approvals.running():
            _prepare_or_tell(site, approval)
            ticks = max(ticks, site.pace.rest())  # each plan has a time of its own
        with suppress(OSError):
            disk.tidy(site, tick=DELETING)  # an approval may have expired
    finally:
        ticks = max(ticks, site.pace.rest())
        if ticks > 1:
            log.warning("reading.overran", site=site.name, ticks=ticks)


def _prepare_or_tell(site: Site, approval: Approval) -> None:
    plan = approval.plan
    try:
        due = are_due(site, approval)
        if approval.frozen and not due:
            return
        site.pace.begin(amendments.arithmetic(site.store, plan).numerics.ticks.train)
        if due:
            site.pace.begin(tick(site, plan))
        if not approval.frozen:
            freeze(site, approval)
        if due:
            frozen = site.approvals.require(plan.hash)
            featured(site, frozen, site.cohorts.of(frozen))
    except Silence:  # a person has stopped the study meanwhile
        return
    except Exception as error:  # noqa: BLE001 - nobody waits for an answer
        require_memory(error)
        problems.keep(site, plan.study.study.name, problems.PREPARING, 0, error)
    else:
        problems.settle(site, plan.study.study.name, problems.PREPARING)


def freeze(site: Site, approval: Approval) -> None:
    """Freeze the cohort of an approved plan for the patients of this moment.

    Raises:
        ConsiliumError: images, labels or lists cannot be read, or there is no room for them.
    """
    plan = approval.plan
    today = membership.places(
        site.cohorts.read(plan.study, most=disk.bytes_free_for(site, plan.study))
    )
    with site.store.transaction():
        if not site.approvals.require(plan.hash).frozen:  # else another process was faster
            _freeze(site, plan, _draft(site, plan, today))


def end(site: Site, plan: Plan, state: State, *, by: str) -> None:
    """End a plan: its key is erased."""
    with site.store.transaction():
        site.approvals.end(plan.hash, state, by=by)
        forget(site, plan)
        _note(site, f"study.{state}", plan, "", by)
    site.store.erase()  # the key's bytes are still in SQLite's write-ahead log
    with suppress(OSError):  # the decision holds; images are deleted at the next chance
        disk.tidy(site)


def close(site: Site, plan_hash: str, acknowledged: int) -> None:
    """End a study that its coordinator is done with; nothing of it will be asked for again.

    A plan that was never charged is forgotten: nothing of it was released, and a coordinator could
    else fill the store with plans that it takes back. A plan that a person denied is kept: else it
    could be proposed again as if nobody had denied it.
    """
    approval = site.approvals.find(plan_hash)
    with site.store.transaction():
        site.replies.acknowledge(plan_hash, acknowledged)
        if approval is not None and approval.state != "closed":
            denied = approval.state == "denied"
            if not denied and membership.forget(site.store, plan_hash):
                accounts.forget(site.store, approval.plan)
                amendments.forget(site.store, plan_hash)
                problems.forget(site.store, plan_hash)
                site.approvals.forget(plan_hash)
            else:
                site.approvals.close(plan_hash)
            forget(site, approval.plan)
            _note(site, "study.closed", approval.plan, "", "coordinator")
    site.store.erase()
    with suppress(OSError):
        disk.tidy(site)


def _draft(site: Site, plan: Plan, today: Mapping[str, FrozenPatient]) -> Draft:
    read = accounts.Accounts(site.store, [each.plan for each in site.approvals.running()])
    return membership.draft(read, plan, today, site.file.policy.limits)


def _freeze(site: Site, plan: Plan, drafted: Draft) -> None:
    membership.freeze(site.store, plan.hash, drafted, site.cohorts.absent())
    forget(site, plan)  # of newcomers none were computed
    decoders = image_shape(plan.study, site.file.targets(plan.study, site.folder)).decoders
    site.approvals.freeze(plan.hash, len(drafted.left_out), decoders, site.cohorts.ignored)
    problems.settle(site, plan.study.study.name, problems.PREPARING)
    problems.keep_crowded(site, plan.hash, drafted.crowded)
    log.info("cohort.frozen", study=plan.study.study.name, plan=plan.hash)


def _require_uncrowded(plan: Plan, drafted: Draft) -> None:
    """Refuse a plan whose bound on patients this hospital exceeds: a person can raise the bound.

    Where the policy approves by itself there is no refusal, since it would follow from patients.
    """
    if drafted.crowded:
        name, most = plan.study.data.dataset, plan.most_patients
        what, remedy = problems.too_many(name, most, drafted.crowded)
        raise SiteError(
            "a part of the data set holds more patients than the site file allows",
            where=f"[data.{name}] most_patients",
            found=what,
            wanted=f"at most {most}",
            remedy=remedy,
        )


def _require_running_below_limit(site: Site) -> None:
    """Refuse one study more than may run at once: each sets aside what it may still cost.

    The coordinator knows which of its plans run, except those that a person stopped: a free place
    may tell a person's decision, never anything of a patient.
    """
    running, most = len(site.approvals.running()), site.file.policy.max_open_studies
    if running >= most:
        raise Refusal.of_public(
            RefusalCode.POLICY,
            "this site runs as many studies as its policy allows at once",
            where="[policy] max_open_studies",
            found=running,
            wanted=f"fewer than {most}",
            remedy="wait until a study ends, or stop one",
        )


def _require_pending_below_limit(site: Site) -> None:
    waiting = site.approvals.waiting()
    if waiting >= MOST_PENDING:
        raise Refusal(
            RefusalCode.POLICY,
            "too many plans wait for a person's decision",
            found=waiting,
            wanted=f"at most {MOST_PENDING}",
            remedy="approve or deny some of the plans that wait",
        )


def _note(site: Site, event: str, plan: Plan, expires: str, by: str) -> None:
    more = {"expires": expires} if expires else {}
    site.audit.append(event, study=plan.study.study.name, plan=plan.hash, by=by, **more)
