"""The learning curve on the kept-apart test set.

Only a simulation has one, and no setting is chosen by it. The
coordinator's observer is shown the weights after each round; some rounds are measured
and the figures kept beside the run, so that a resumed run has the same curve.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from common.documents import read_json
from common.files import canonical_json, write_atomic
from simulations.reports.result import CurvePoint

POINTS: Final = 15
"""About how many rounds of a study are measured."""
Measure = Callable[[npt.NDArray[np.float32], int], CurvePoint]


def curve_rounds(rounds: int) -> tuple[int, ...]:
    """The rounds that are measured: the first, the last, and evenly between."""
    if rounds <= POINTS:
        return tuple(range(1, rounds + 1))
    steps = np.linspace(1, rounds, POINTS)
    return tuple(sorted({int(value) for value in np.rint(steps)}))


class Curve:
    """The learning curve of a run, kept in a file.

    Args:
        path: JSON; what is there is continued.
        rounds: of the study.
        measure: of weights after a round.
    """

    def __init__(self, path: Path, rounds: int, measure: Measure) -> None:
        self._path = path
        self._wanted = curve_rounds(rounds)
        self._measure = measure
        self._points: dict[int, CurvePoint] = {}
        if path.exists():
            known = [CurvePoint.model_validate(point) for point in read_json(path.read_bytes())]
            self._points = {point.round: point for point in known}

    @property
    def points(self) -> tuple[CurvePoint, ...]:
        """What was measured, by round."""
        return tuple(self._points[number] for number in sorted(self._points))

    def see(self, number: int, weights: npt.NDArray[np.float32]) -> CurvePoint | None:
        """Measure the weights after a round if it is one of the measured and not known yet."""
        # After a crash the newest round is shown again; it may have been measured already.
        if number not in self._wanted or number in self._points:
            return None
        point = self._points[number] = self._measure(weights, number)
        document = [known.model_dump(mode="json") for known in self.points]
        write_atomic(self._path, canonical_json(document))
        return point
