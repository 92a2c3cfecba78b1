"""What comes out of the store: frozen records, none of which holds on to the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from common.wire.enrolment import SiteCard
from common.wire.messages import LedgerHead


class SiteState(StrEnum):
    """Whether a site is let in."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class StudyState(StrEnum):
    """Where a study stands. A restarted daemon goes on with those that wait or run."""

    OFFERED = "offered"
    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"


class ApprovalState(StrEnum):
    """What a site has said to its plan."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    REFUSED = "refused"


@dataclass(frozen=True)
class SiteRecord:
    """A site that was admitted, with the keys that it uses now.

    Attributes:
        name: what it is called.
        state: whether it is let in.
        node_key: PEM of the key that it connects with.
        signing_key: hexadecimal, of the key that it signs replies with.
        admitted_at: for the first time.
        changed_at: when it was last admitted or suspended.
        last_seen: when it last called, some seconds more or less.
        declared: patients by data set, as its card said.
        agreed: the most patients that it may declare, by data set.
    """

    name: str
    state: SiteState
    node_key: str
    signing_key: str
    admitted_at: datetime
    changed_at: datetime
    last_seen: datetime | None
    declared: Mapping[str, int] = field(default_factory=dict)
    agreed: Mapping[str, int] = field(default_factory=dict)

    @property
    def card(self) -> SiteCard:
        """The card that it was admitted by."""
        return SiteCard(
            name=self.name,
            node_key=self.node_key,
            signing_key=self.signing_key,
            patients=dict(self.declared),
        )


@dataclass(frozen=True)
class KeyRecord:
    """A site's keys, and from when until when they were in use."""

    site: str
    node_key: str
    signing_key: str
    added_at: datetime
    retired_at: datetime | None


@dataclass(frozen=True)
class StudyRecord:
    """A study.

    Attributes:
        name: unique for ever.
        document: the study file's text.
        seed: what the first weights follow from.
        sites: that it was offered to, by name.
        state: where it stands.
        why: what brought it there, in words.
        created_at: when it was started.
        changed_at: when its state changed.
    """

    name: str
    document: str
    seed: int
    sites: tuple[str, ...]
    state: StudyState
    why: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class RoundRecord:
    """A completed round.

    Attributes:
        study: its study.
        number: from 1 on.
        purpose: ``train`` or ``evaluate``.
        sites: whose replies were folded.
        absences: why the others' were not, by site.
        seconds: that it took.
        completed_at: when it was completed.
    """

    study: str
    number: int
    purpose: str
    sites: tuple[str, ...]
    absences: Mapping[str, str]
    seconds: float
    completed_at: datetime


@dataclass(frozen=True)
class ApprovalRecord:
    """What a site last said to a plan, and since when."""

    study: str
    site: str
    plan_hash: str
    state: ApprovalState
    why: str
    changed_at: datetime


@dataclass(frozen=True)
class MetricsRecord:
    """The figures of the shared model after a round, as they are computed from noisy counts."""

    study: str
    round: int
    figures: Mapping[str, Any]
    recorded_at: datetime


@dataclass(frozen=True)
class ReceiptRecord:
    """What the coordinator signed to have seen of a site."""

    site: str
    study: str
    ledger: LedgerHead
    seal: str
    signature: bytes
    signed_at: datetime


@dataclass(frozen=True)
class EventRecord:
    """Something that happened.

    Attributes:
        id: grows with every event; whoever follows asks for those after the last one seen.
        at: when.
        study: concerned, if one is.
        kind: as in the log, ``round.completed``.
        round: concerned, if one is.
        site: concerned, if one is.
        fields: the rest.
    """

    id: int
    at: datetime
    study: str | None
    kind: str
    round: int | None
    site: str | None
    fields: Mapping[str, Any]
