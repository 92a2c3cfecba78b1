"""What the administrator of a site sees, as plain values.

Times are ISO 8601 in UTC. An epsilon is infinite where nothing bounds what is released.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from client.administration.explain import Sections
from client.consent.rejected import RejectedProposal


@dataclass(frozen=True)
class StudyRow:
    """One plan and how it stands.

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
        warnings: what every mention of it begins with.
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
        row: how it stands.
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
        patients: how many stand in training and evaluation. Sensitive, as the next.
        left_out: how many do not, since they cannot pay for the whole study.
    """

    study: str
    plan_hash: str
    expires: str
    epsilon: float
    patients: int = field(repr=False)
    left_out: int = field(repr=False)


@dataclass(frozen=True)
class Left:
    """What of a study had left the site when it was ended.

    Attributes:
        study: its name.
        plan_hash: its plan.
        state: what it is in now: stopped, or denied where it had never been approved.
        rounds: of training whose update was made.
        replies: updates and histograms that were made; they may all have left.
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
        left: running studies that they stood in and have left, by name. Sensitive, as the next.
        unknown: of those who were added, who stands in no cohort that was read here. Sensitive.
    """

    added: int
    known: int
    left: tuple[str, ...] = field(repr=False)
    unknown: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Spending:
    """What one plan has cost the patient whom it cost most.

    Attributes:
        rounds: of training that were charged.
        evaluations: that were charged.
        epsilon_spent: so far.
        epsilon: the most that it may cost.
        patients: who stand in training and evaluation now. Sensitive, as the next two.
        gone: who stood in it and left, by reason.
        left_out: who never did, since they could not pay for all of it.
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
        delta: with which probability the bounds may fail.
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
    """How the site stands, whatever carries its messages.

    Attributes:
        site: its name.
        known_key: NOT PRIVATE: its keys follow from a seed that others know.
        paused_by: who told it to take no new work; empty while it works.
        paused_since: when.
        studies: all plans, newest first.
        declined: proposals that were refused before a person saw them, newest first.
        audit_length: lines of the audit log.
        audit_head: hash of its last line.
        torn: bytes of lines that crashes left half written, set aside.
        warnings: what a person should know, and what to do about it.
    """

    site: str
    known_key: bool
    paused_by: str
    paused_since: str
    studies: tuple[StudyRow, ...]
    declined: tuple[RejectedProposal, ...]
    audit_length: int
    audit_head: str
    torn: int
    warnings: tuple[tuple[str, str], ...]
