"""What the administrator of a site sees, as plain values, and how they follow from the records.

Times are ISO 8601 in UTC. An epsilon is infinite where nothing bounds what is released. A field of
this module has the name of the field of ``site.proto`` that carries it to the command line. What
is sensitive is left out of ``repr``, which a protobuf message could not do: a log or a traceback
that shows a view shows no count of patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from client.administration.explain import Sections, bytes_of
from client.consent.refusals import RefusedProposal
from client.records import membership
from client.records.accounts import Accounts
from client.records.approvals import Approval
from client.site import Site
from common.plan import Plan


@dataclass(frozen=True)
class StudyRow:
    """One plan and its state.

    Attributes:
        name: of its study.
        title: of its study.
        plan_hash: SHA-256 of the plan.
        state: pending, approved, expired, denied, stopped or closed.
        round: the last round of training that was charged; 0 before any.
        rounds: of training in the plan.
        epsilon_spent: the largest that any of its patients has spent on it so far.
        epsilon: the most that it may cost a patient.
        proposed: when it first came.
        decided: when its state was last decided.
        by: who decided; ``policy`` for what was approved without a person.
        expires: when its approval ends; empty where there is none.
        warnings: shown wherever the plan is mentioned.
    """

    name: str
    title: str
    plan_hash: str
    state: str
    round: int
    rounds: int
    epsilon_spent: float
    epsilon: float
    proposed: str
    decided: str
    by: str
    expires: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A plan in plain words.

    Attributes:
        row: its state.
        sections: the words.
        document: the plan in its canonical form: what the hash is over.
    """

    row: StudyRow
    sections: Sections
    document: str

    @property
    def text(self) -> str:
        """The words for a terminal."""
        blocks = (
            "\n".join((heading, *(f"  {line}" for line in lines)))
            for heading, lines in self.sections
        )
        return "\n\n".join(blocks)


@dataclass(frozen=True)
class Approved:
    """An approval that was given.

    Attributes:
        patients: how many are in training and evaluation. Sensitive, as the next.
        left_out: how many are not, since they cannot pay for the whole study.
    """

    study: str
    plan_hash: str
    expires: str
    epsilon: float
    patients: int = field(repr=False)
    left_out: int = field(repr=False)


@dataclass(frozen=True)
class Released:
    """What of a study had left the site when it was ended.

    Attributes:
        study: its name.
        plan_hash: its plan.
        state: its state now: stopped, or denied where it had never been approved.
        rounds: of training whose update was computed.
        replies: updates and histograms that were computed; they may all have left.
        bytes: of their arrays.
        epsilon: the largest that any of its patients has spent on it.
    """

    study: str
    plan_hash: str
    state: str
    rounds: int
    replies: int
    bytes: int
    epsilon: float


@dataclass(frozen=True)
class OptedOut:
    """What an opt-out changed.

    Attributes:
        added: patients who were not on the list before.
        known: those who were.
        left: names of the running studies that they were in and have left. Sensitive.
        unknown: those added who are in no cohort that was loaded here. Sensitive.
    """

    added: int
    known: int
    left: tuple[str, ...] = field(repr=False)
    unknown: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Spending:
    """What one plan has cost its most charged patient.

    Attributes:
        rounds: of training that were charged.
        evaluations: that were charged.
        epsilon_spent: so far.
        epsilon: the most that it may cost.
        patients: how many are in training and evaluation now. Sensitive, as the next two.
        gone: how many were in it and left, by reason.
        left_out: how many never were, since they could not pay for all of it.
    """

    study: str
    plan_hash: str
    state: str
    rounds: int
    evaluations: int
    epsilon_spent: float
    epsilon: float
    patients: int = field(repr=False)
    gone: str = field(repr=False)
    left_out: int = field(repr=False)


@dataclass(frozen=True)
class LedgerReport:
    """The site's ledger.

    Attributes:
        studies: every plan that was ever approved here, oldest first.
        limit_per_study: the policy's.
        limit_total: the policy's.
        delta: the probability that the limits may fail.
        most_spent: the account of the most charged patient, over all studies.
        length: number of charges.
        head: hash over all of them.
    """

    studies: tuple[Spending, ...]
    limit_per_study: float
    limit_total: float
    delta: float
    most_spent: float
    length: int
    head: str


@dataclass(frozen=True)
class Status:
    """The state of the site itself, without its processes.

    Attributes:
        site: its name.
        known_key: NOT PRIVATE: its keys follow from a seed that others know.
        paused_by: the person who paused it; empty while it works.
        studies: all plans, newest first.
        refused_proposals: proposals that were refused before a person saw them, newest first.
        audit_length: lines of the audit log.
        warnings: what a person should know, each with what to do about it.
    """

    site: str
    known_key: bool
    paused_by: str
    studies: tuple[StudyRow, ...]
    refused_proposals: tuple[RefusedProposal, ...]
    audit_length: int
    warnings: tuple[tuple[str, str], ...]


def row_of(site: Site, approval: Approval, accounts: Accounts) -> StudyRow:
    """A plan and its state."""
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


def left_of(site: Site, plan: Plan, state: str) -> Released:
    """What has left of a plan at most."""
    # Committed replies: whether one of them was sent is not known for certain after a crash.
    progress = site.ledger.progress(plan.hash)
    rounds, evaluations = progress["train", "committed"], progress["validation", "committed"]
    update, counts = bytes_of(plan)
    return Released(
        study=plan.study.study.name,
        plan_hash=plan.hash,
        state=state,
        rounds=rounds,
        replies=rounds + evaluations,
        bytes=rounds * update + evaluations * counts,
        epsilon=site.ledger.spent_on(plan),
    )


def spending_of(site: Site, approval: Approval, accounts: Accounts) -> Spending:
    """What a plan has cost."""
    plan, progress = approval.plan, site.ledger.progress(approval.plan.hash)
    # Reserved rounds count: they are charged before anything is computed (spent before used).
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
        gone=membership.departures_in_words(membership.departures(site.store, plan.hash)),
        left_out=approval.left_out,
    )
