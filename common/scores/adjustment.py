"""What is added to scores after training, from what sites released: it costs no privacy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from common.scores.operating import HALF, OperatingPoint, used
from common.scores.scaling import Scaling


@dataclass(frozen=True)
class Adjustment:
    """Calibration of scores, and thresholds of the scores as they are before it. Public.

    Attributes:
        scaling: of the scores.
        points: chosen thresholds, for each class that is found or not.
        edges: every threshold of which something is known, likewise.
    """

    scaling: Scaling = field(default_factory=Scaling)
    points: tuple[OperatingPoint, ...] = ()
    edges: tuple[OperatingPoint, ...] = ()

    def of(self, positive: int) -> tuple[OperatingPoint, ...]:
        """The points of one class."""
        return tuple(each for each in self.points if each.positive == positive)

    def rule(self, positive: int) -> str:
        """The name of the point that decides where none is asked for."""
        points = self.of(positive)
        return used(points).name if points else HALF


NOTHING: Final = Adjustment()
"""Scores as they are."""
