"""What a researcher asks of an audit; imports nothing slow, since the command line needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from common.errors import StudyError

CANARIES: Final = 100
"""Of the one-run audit, for each hospital."""
REPETITIONS: Final = 20
"""Of the mechanism audit, at each hospital."""
CONFIDENCE: Final = 0.95


class Which(StrEnum):
    """One of the two audits."""

    ONE_RUN = "one-run"
    MECHANISM = "mechanism"


class CanaryKind(StrEnum):
    """What the canaries of the one-run audit look like.

    ``pattern``: bright and dark gratings that no scanner makes, labelled at random.
    ``mislabelled``: an image of the held-out test set with another class.
    """

    PATTERN = "pattern"
    MISLABELLED = "mislabelled"


@dataclass(frozen=True)
class AuditSettings:
    """What a researcher asks for.

    Attributes:
        study: the study file.
        hospitals: folder of the hospitals.
        out: new or empty folder that everything is written to.
        only: one of the two audits, or None for both.
        seed: what all follows from; the runs of the one-run audit count up from it.
        canaries: of the one-run audit, for each hospital.
        kind: of those canaries.
        runs: of the one-run audit.
        repetitions: of the mechanism audit, at each hospital.
        confidence: with which all bounds hold at once.
        threads: torch threads of every site, instead of those in the site files.
        processes: for decoding.
        command: as typed, for the report.

    Raises:
        StudyError: the confidence is none.
    """

    study: Path
    hospitals: Path
    out: Path
    only: Which | None = None
    seed: int = 0
    canaries: int = CANARIES
    kind: CanaryKind = CanaryKind.PATTERN
    runs: int = 1
    repetitions: int = REPETITIONS
    confidence: float = CONFIDENCE
    threads: int | None = None
    processes: int = len(os.sched_getaffinity(0))
    command: str = ""

    def __post_init__(self) -> None:
        # NaN is in no range; the command line's own check lets it pass.
        if not 0.5 <= self.confidence < 1:
            raise StudyError(
                "the bounds of an audit cannot hold with this confidence",
                where="--confidence",
                found=self.confidence,
                wanted="0.5 or more, and less than 1",
                remedy="use 0.95, as the audit does without this option",
            )
