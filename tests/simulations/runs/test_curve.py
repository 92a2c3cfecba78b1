from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.reports.result import CurvePoint
from simulations.runs.curve import POINTS, Curve, curve_rounds


def measure(weights: NDArray[np.float32], number: int) -> CurvePoint:
    return CurvePoint(round=number, value=float(weights[0]))


WEIGHTS = np.array([0.25], dtype=np.float32)


def test_a_short_study_is_measured_after_every_round() -> None:
    assert curve_rounds(3) == (1, 2, 3)


def test_a_long_study_is_measured_at_its_ends_and_evenly_between() -> None:
    assert curve_rounds(71) == (1, 6, 11, 16, 21, 26, 31, 36, 41, 46, 51, 56, 61, 66, 71)
    assert len(curve_rounds(10_000)) == POINTS


def test_only_the_rounds_of_the_curve_are_measured(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.json", 71, measure)

    assert curve.see(5, WEIGHTS) is None
    assert curve.see(6, WEIGHTS) == CurvePoint(round=6, value=0.25)
    assert [point.round for point in curve.points] == [6]


def test_a_resumed_run_has_the_points_that_were_measured_and_measures_none_again(
    tmp_path: Path,
) -> None:
    Curve(tmp_path / "curve.json", 3, measure).see(1, WEIGHTS)
    curve = Curve(tmp_path / "curve.json", 3, measure)

    assert curve.see(1, WEIGHTS + 1) is None
    curve.see(2, WEIGHTS)
    assert [(point.round, point.value) for point in curve.points] == [(1, 0.25), (2, 0.25)]
