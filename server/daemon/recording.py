"""What of a study's events goes into the store: everything but weights and histograms.

A round's facts, figures, approvals and receipts have tables of their own; the rest is in the
events, which an operator may watch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from common.errors import CoordinatorError
from server.store import Store
from server.store.rows import ApprovalState, StudyState

_HEAVY: Final = frozenset({"weights", "histogram", "signature", "ledger", "audit"})
_ALIVE: Final = (StudyState.OFFERED, StudyState.WAITING, StudyState.RUNNING)
QUIET_SECONDS: Final = 5.0
"""A round that is done sooner needs no word about each reply."""

Fields = Mapping[str, Any]


class StudyStopped(Exception):  # noqa: N818 - it is not an error
    """An operator stopped the study while this process was at work."""


class Recorder:
    """An observer of one study that writes what it is told to the store.

    Args:
        store: the coordinator's.
        study: the study's name.
    """

    def __init__(self, store: Store, study: str) -> None:
        self._store = store
        self._study = study
        self._round_began = 0.0
        self._receipts: dict[str, Fields] = {}
        self._special: dict[str, Callable[[Fields], None]] = {
            "study.started": lambda fields: self._stand(StudyState.WAITING),
            "round.started": self._round_started,
            "round.completed": lambda fields: self._round(fields, "train"),
            "evaluation.completed": self._evaluation,
            "approval.waiting": lambda fields: self._approval(fields, ApprovalState.PENDING),
            "approval.given": lambda fields: self._approval(fields, ApprovalState.APPROVED),
            "approval.refused": self._refused,
        }

    def __call__(self, event: str, fields: dict[str, object]) -> None:
        """Write one event down.

        Raises:
            StudyStopped: the study was stopped.
            CoordinatorError: the store cannot be written.
        """
        if event == "receipt.signed":
            self._receipts[str(fields["site"])] = fields
            return
        if event == "reply.folded" and time.monotonic() - self._round_began < QUIET_SECONDS:
            return
        special = self._special.get(event)
        if special is not None:
            special(fields)
        self.flush()
        if event != "study.completed":  # told by who knows the outcome
            self.note(event, fields)

    def note(self, event: str, fields: Fields) -> None:
        """Write an event down as it is."""
        shown = {name: plain(value) for name, value in fields.items() if name not in _HEAVY}
        number, site = shown.pop("round", None), shown.pop("site", None)
        self._store.record(self._study, event, round=number, site=site, fields=shown)

    def flush(self) -> None:
        """Write the newest receipt of each site down."""
        for site, fields in self._receipts.items():
            ledger, seal, signature = (fields[name] for name in ("ledger", "seal", "signature"))
            self._store.put_receipt(self._study, site, ledger, seal, signature)
        self._receipts.clear()

    def _stand(self, state: StudyState) -> None:
        try:
            self._store.set_state(self._study, state, expected=_ALIVE)
        except CoordinatorError:
            if self._store.study(self._study).state == StudyState.STOPPED:
                raise StudyStopped from None
            raise

    def _round_started(self, _fields: Fields) -> None:
        self._round_began = time.monotonic()
        self._stand(StudyState.RUNNING)

    def _round(self, fields: Fields, purpose: str) -> None:
        self._store.put_round(
            self._study,
            fields["round"],
            purpose,
            sites=tuple(fields["sites"]),
            absences=dict(fields["absences"]),
            seconds=fields["seconds"],
        )

    def _evaluation(self, fields: Fields) -> None:
        self._round(fields, "evaluate")
        self._store.put_metrics(self._study, fields["round"], plain(fields["metrics"]))

    def _refused(self, fields: Fields) -> None:
        state = ApprovalState.DENIED if fields["code"] == "denied" else ApprovalState.REFUSED
        self._approval(fields, state)

    def _approval(self, fields: Fields, state: ApprovalState) -> None:
        why = str(fields.get("reason", ""))
        self._store.put_approval(self._study, str(fields["site"]), str(fields["plan"]), state, why)


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever an event holds
    """The value as JSON knows it; a number that is none becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "item"):
        return plain(value.item())  # a NumPy scalar
    return str(value)
