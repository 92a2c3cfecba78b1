"""What is written to the store of a study's events: everything but weights and histograms.

Rounds, figures, approvals and receipts have their own tables; the rest is in the events, which an
operator can watch. A refusal of the gateway is an event too. So that a caller with a thousand
requests a second cannot fill the store, there is one event a minute for each reason, site and
address, with its count; the first comes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.documents import read_json
from common.errors import CoordinatorError
from server.store import CoordinatorStore
from server.store.rows import ApprovalState, StudyState

# Large, and stored elsewhere: weights in checkpoints, histograms as figures.
_HEAVY: Final = frozenset({"weights", "histogram"})
_ALIVE: Final = (StudyState.OFFERED, StudyState.WAITING, StudyState.RUNNING)
QUIET_SECONDS: Final = 5.0
"""Each reply is an event only in a round that takes longer than this."""

Fields = Mapping[str, Any]


class StudyStopped(Exception):  # noqa: N818 - it is not an error
    """An operator stopped the study while this process was at work."""


class Recorder:
    """An observer of one study that writes its events to the store.

    Args:
        store: the coordinator's.
        study: the study's name.
    """

    def __init__(self, store: CoordinatorStore, study: str) -> None:
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
        if event != "study.completed":  # written by complete(), which knows the outcome
            self.note(event, fields)

    def note(self, event: str, fields: Fields) -> None:
        """Write an event down as it is."""
        shown = {name: plain(value) for name, value in fields.items() if name not in _HEAVY}
        number, site = shown.pop("round", None), shown.pop("site", None)
        self._store.record(self._study, event, round=number, site=site, fields=shown)

    def complete(self, outcome: Path) -> None:
        """Write that the study is completed, as its outcome file says."""
        self.flush()
        facts = read_json(outcome.read_bytes())
        names = ("final_weights_sha256", "rounds", "warnings")
        self.note("study.completed", {name: facts[name] for name in names})
        # Last: a watcher that sees the state has then got every event.
        self._store.set_state(self._study, StudyState.COMPLETED)

    def flush(self) -> None:
        """Write the newest receipt of each site to the store."""
        for site, fields in self._receipts.items():
            ledger, seal, signature = (fields[name] for name in ("ledger", "seal", "signature"))
            self._store.put_receipt(self._study, site, ledger, seal, signature)
        self._receipts.clear()

    def _stand(self, state: StudyState) -> None:
        try:
            # Expected: an operator may have stopped the study in the meantime.
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
    """The value as JSON has it; NaN and infinity become null."""
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


EVERY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.5
MOST_KINDS: Final = 1000
"""Kinds that are counted separately; further addresses are counted together."""

Kind = tuple[str, str | None, str]


@dataclass
class _Seen:
    count: int = 0
    written: float = -EVERY_SECONDS


class Refusals:
    """Refusals that are not in the store yet."""

    def __init__(self, store: CoordinatorStore) -> None:
        self._store = store
        self._seen: dict[Kind, _Seen] = {}

    def note(self, reason: str, site: str | None, address: str) -> None:
        """Count a refusal. The gateway calls this for each: nothing is written here."""
        kind = (reason, site, address)
        if kind not in self._seen and len(self._seen) >= MOST_KINDS:
            kind = (reason, None, "others")
        self._seen.setdefault(kind, _Seen()).count += 1

    async def keep(self) -> None:
        """Write them to the store as they come, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write those that are due."""
        now = time.monotonic()
        for kind, seen in list(self._seen.items()):
            if now - seen.written < EVERY_SECONDS:
                continue
            if not seen.count:
                del self._seen[kind]
                continue
            count, seen.count, seen.written = seen.count, 0, now
            await asyncio.to_thread(self._write, kind, count)

    def _write(self, kind: Kind, count: int) -> None:
        reason, site, address = kind
        fields = {"reason": reason, "address": address, "count": count}
        with contextlib.suppress(CoordinatorError):  # the store is away; the log has them
            self._store.record(None, "gateway.refused", site=site, fields=fields)
