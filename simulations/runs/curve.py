"""Curves on the kept-apart test set: over the rounds, ROC and reliability.

Only a simulation has them, and no setting is chosen by them. For the learning curve the
coordinator's observer is shown the weights after each round; some rounds are measured
and the figures kept beside the run, so that a resumed run has the same curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from common.documents import read_json
from common.figures.auc import roc_points
from common.figures.calibration import exact_calibration_points
from common.figures.histogram import plane_scores
from common.files import canonical_json, write_atomic
from simulations.reports.result import CurvePoint, Figure, ReliabilityCell, Roc

POINTS: Final = 15
"""About how many rounds of a study are measured."""
ROC_POINTS: Final = 200
"""At most this many points of a curve are kept for drawing."""

Scores = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Each patient's class probabilities, and label."""

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


def roc_curves(classes: Sequence[str], scored: Scores) -> tuple[Roc, ...]:
    """The positive class's curve for two classes; for more, each against the rest."""
    scores, labels = plane_scores(scored[0]), scored[1]
    planes = {1: 0} if len(classes) == 2 else {k: k for k in range(len(classes))}
    return tuple(
        Roc(positive=classes[k], points=_thinned(scores[:, plane], labels == k))
        for k, plane in planes.items()
    )


def _thinned(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]
) -> tuple[tuple[float, float], ...]:
    """A ROC curve at no more points than a picture can show."""
    cell = np.unique(scores, return_inverse=True)[1]
    cells = int(cell.max(initial=-1)) + 1
    counts = (np.bincount(cell[each], minlength=cells) for each in (positive, ~positive))
    false, true = roc_points(*counts)
    kept = np.unique(np.linspace(0, len(false) - 1, min(len(false), ROC_POINTS)).astype(int))
    return tuple((float(false[i]), float(true[i])) for i in kept)


def reliability(classes: Sequence[str], scored: Scores) -> tuple[ReliabilityCell, ...]:
    """How often the positive class came true at each score; empty for more than two classes."""
    if len(classes) > 2:
        return ()
    points = exact_calibration_points(scored[0][:, 1], scored[1])
    return tuple(
        ReliabilityCell(score=point.score, observed=Figure.of(point.rate)) for point in points
    )
