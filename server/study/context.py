"""What the coordinator works with during one study: how sites are reached, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from server.study.dispatch import SIMULATION, RetryPolicy, StudyHistory

# isort: split
# Only after server.study.dispatch, whose common.wire.flower tells Flower to stay off the network.
from flwr.serverapp import Grid

if TYPE_CHECKING:
    from server.study.receipts import CoordinatorReceipts

Observer = Callable[[str, dict[str, object]], None]
_TOO_LONG: Final = frozenset({"weights", "histogram", "metrics", "signature"})
"""Fields of events that only an observer gets."""

_log = structlog.get_logger(__name__)


def nobody(event: str, fields: dict[str, object]) -> None:
    """The observer that ignores every event."""


@dataclass(frozen=True)
class StudyContext:
    """How a study's coordinator reaches the sites, and who observes.

    Attributes:
        grid: how messages travel.
        roster: each site's public key, hexadecimal; no other site is asked or believed.
        timeout: how long a round waits for replies, as ``30m``.
        observer: is told every event.
        retries: how requests are sent again, and replies waited for.
        receipts: signs for what sites have sent; None where no receipts are kept.
        memory: of the study's earlier requests; it changes.
    """

    grid: Grid
    roster: Mapping[str, str]
    timeout: str
    observer: Observer = nobody
    retries: RetryPolicy = SIMULATION
    receipts: CoordinatorReceipts | None = None
    memory: StudyHistory = field(default_factory=StudyHistory)

    def tell(self, event: str, **fields: object) -> None:
        """Log an event in one line, and tell the observer all of it."""
        shown = {name: value for name, value in fields.items() if name not in _TOO_LONG}
        _log.info(event, **shown)
        self.observer(event, fields)
