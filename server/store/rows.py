"""The store's records: frozen, without a connection to the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from common.wire.enrolment import SiteCard
from common.wire.messages import LedgerHead


class SiteState(StrEnum):
    """Whether a site may connect."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class StudyState(StrEnum):
    """The state of a study. A restarted daemon goes on with those offered, waiting or running."""

    OFFERED = "offered"
    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"


class ApprovalState(StrEnum):
    """A site's answer to its plan."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    REFUSED = "refused"


@dataclass(frozen=True)
class SiteRecord:
    """A site that was admitted, with the keys that it uses now.

    Attributes:
        name: of the site.
        state: whether it may connect.
        node_key: PEM of the key that it connects with.
        signing_key: hexadecimal, of the key that it signs replies with.
        admitted_at: for the first time.
        changed_at: when it was last admitted or suspended.
        last_seen: when it last called, to within some seconds.
        declared: patients by data set, from its card.
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
        """The card that it was admitted with."""
        return SiteCard(
            name=self.name,
            node_key=self.node_key,
            signing_key=self.signing_key,
            patients=dict(self.declared),
        )


@dataclass(frozen=True)
class KeyRecord:
    """A site's keys, and when they were in use."""

    site: str
    node_key: str
    signing_key: str
    added_at: datetime
    retired_at: datetime | None


@dataclass(frozen=True)
class StudyRecord:
    """A study.

    Attributes:
        name: never used twice.
        document: the study file's text.
        seed: of the first weights.
        sites: that it was offered to, by name.
        state: of the study.
        why: the reason for this state, in words.
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
        sites: those whose replies were added.
        absences: by site, why a reply was not.
        seconds: its duration.
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
    """A site's last answer to a plan, and its time."""

    study: str
    site: str
    plan_hash: str
    state: ApprovalState
    why: str
    changed_at: datetime


@dataclass(frozen=True)
class MetricsRecord:
    """The figures of the shared model after a round, computed from noisy counts."""

    study: str
    round: int
    figures: Mapping[str, Any]
    recorded_at: datetime


@dataclass(frozen=True)
class ReceiptRecord:
    """What the coordinator has signed for a site: heads of its ledger and of its audit log."""

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
        id: grows with every event; a watcher asks for those after the last one it has seen.
        at: its time.
        study: that it is about, if any.
        kind: as in the log, ``round.completed``.
        round: that it is about, if any.
        site: that it is about, if any.
        fields: all else.
    """

    id: int
    at: datetime
    study: str | None
    kind: str
    round: int | None
    site: str | None
    fields: Mapping[str, Any]
