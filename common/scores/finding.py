"""What a model says of one thing in one patient, in the terms of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROBABILITY: Final = "1"
"""Unit of a score that is a probability: UCUM's unity."""


@dataclass(frozen=True)
class Finding:
    """What a model says about one class, or the number that it predicts. Sensitive.

    Attributes:
        name: of the class or the quantity, in the study's words.
        score: the probability, or the number.
        present: whether the class counts as found; None where nothing was decided.
        threshold: of the score, from which on it does; None where there is none.
        unit: ``"1"`` says that the score is a probability. Another one is a number's unit, in UCUM
            or in words, and empty is a number without a unit.
    """

    name: str
    score: float
    present: bool | None = None
    threshold: float | None = None
    unit: str = PROBABILITY

    @property
    def is_probability(self) -> bool:
        """Whether the score is one; else it is a number with a unit."""
        return self.unit == PROBABILITY
