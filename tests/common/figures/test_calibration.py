from __future__ import annotations

import numpy as np
import pytest

from common.figures.calibration import (
    calibration_error,
    exact_calibration_error,
    exact_calibration_points,
)


def sick(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that overstate every risk by a tenth, and what came true."""
    scores = generator.uniform(0.1, 1.0, patients)
    return scores, (generator.random(patients) < scores - 0.1).astype(np.int64)


def by_bin(scores: np.ndarray, labels: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    cell = (scores * bins).astype(int)
    return (
        np.bincount(cell[labels == 1], minlength=bins),
        np.bincount(cell[labels == 0], minlength=bins),
    )


def test_error_from_scores_by_hand() -> None:
    """Bin one: scores 0.1 and 0.3, one positive. Bin two: 0.8, positive. Distances 0.3, 0.2."""
    error = exact_calibration_error(np.array([0.1, 0.3, 0.8]), np.array([0, 1, 1]), bins=2)

    assert error.value == pytest.approx((2 * 0.3 + 0.2) / 3)


def test_error_from_bins_by_hand() -> None:
    """Centres 0.25 and 0.75: |1 - 0.25 * 4| and |6 - 0.75 * 6| of ten patients."""
    assert calibration_error(np.array([1, 6]), np.array([3, 0])).value == pytest.approx(0.15)


@pytest.mark.parametrize("bins", [4, 10, 20])
def test_bins_find_the_error_within_half_a_bin(bins: int) -> None:
    scores, labels = sick(np.random.default_rng(1), 500)
    exact = exact_calibration_error(scores, labels, bins=bins)
    read = calibration_error(*by_bin(scores, labels, bins))

    assert exact.value is not None and read.value is not None
    assert abs(read.value - exact.value) <= 0.5 / bins
    assert read.low <= exact.value <= read.high


def test_what_noise_adds_is_taken_out_and_the_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(2)
    values, raw, covered = [], [], []
    for _ in range(200):
        counts = np.stack(by_bin(*sick(generator, 2000), 10))
        noisy = np.rint(counts + generator.normal(0.0, 8.0, counts.shape)).astype(np.int64)
        figure = calibration_error(*noisy, noise_variance=64.0)
        plain = calibration_error(*noisy)
        values.append(figure.value or 0.0)
        raw.append(plain.value or 0.0)
        covered.append(figure.low <= 0.1 <= figure.high)

    assert abs(np.mean(values) - 0.1) < abs(np.mean(raw) - 0.1)
    assert np.mean(values) == pytest.approx(0.1, abs=0.01)
    assert np.mean(covered) >= 0.93


def test_noise_and_empty_counts_are_told_apart() -> None:
    loud = calibration_error(np.array([9, 30]), np.array([40, 8]), noise_variance=400.0)
    assert loud.why == "noise exceeds signal: 87 patients read through noise of ±78"
    assert calibration_error(*np.zeros((2, 4), np.int64)).why == "too few patients: 0 patients"
    assert calibration_error(np.array([-3, 1]), np.array([0, 0]), noise_variance=4.0).value is None


def test_points_leave_out_bins_without_patients() -> None:
    scores = np.array([0.125] * 4 + [0.625] * 8)
    points = exact_calibration_points(
        scores, np.array([1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0]), bins=4
    )

    assert [(point.score, point.patients) for point in points] == [(0.125, 4.0), (0.625, 8.0)]
    assert [point.rate.value for point in points] == [0.25, 0.75]


def test_points_from_scores_stand_at_the_mean_score() -> None:
    (point,) = exact_calibration_points(np.array([0.1, 0.3]), np.array([0, 1]), bins=2)

    assert point.score == pytest.approx(0.2)
    assert (point.rate.value, point.patients) == (0.5, 2.0)
