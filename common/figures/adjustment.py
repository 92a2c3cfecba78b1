"""What is added to a model's scores after training, from what sites released: it costs no privacy."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.figures.operating import OperatingPoint
from common.figures.scaling import Scaling


@dataclass(frozen=True)
class Adjustment:
    """Calibration of scores, and thresholds of the scores as they are before it. Public.

    Attributes:
        scaling: of the scores.
        points: thresholds, for each class that is found or not.
    """

    scaling: Scaling = field(default_factory=Scaling)
    points: tuple[OperatingPoint, ...] = ()

    def of(self, positive: int) -> tuple[OperatingPoint, ...]:
        """The points of one class."""
        return tuple(each for each in self.points if each.positive == positive)


NOTHING = Adjustment()
"""Scores as they are."""
