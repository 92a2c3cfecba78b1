from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.scores.conformal import ClassSets, ValueBands, calibrate_classes, calibrate_values


def two(positive: list[float]) -> np.ndarray:
    return np.stack([1.0 - np.array(positive), np.array(positive)], axis=1)


def three_classes(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """A model that is twice too sure of itself."""
    z = generator.normal(0.0, 1.5, (patients, 3))
    true = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = (generator.random((patients, 1)) > true.cumsum(axis=1)).sum(axis=1)
    sure = np.exp(2.0 * z) / np.exp(2.0 * z).sum(axis=1, keepdims=True)
    return sure, labels


def test_threshold_of_classes_by_hand() -> None:
    """Misfits 0.1 to 0.9 and 0.95; of ten, at 20 %, the ninth: ceil(11 * 0.8)."""
    scores = two([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    sets = calibrate_classes(scores, np.ones(10, dtype=np.int64), alpha=0.2)

    assert sets.threshold == pytest.approx(0.9)
    assert (sets.alpha, sets.patients) == (0.2, 10)


def test_sets_by_hand() -> None:
    sets = ClassSets(threshold=0.75, alpha=0.1, patients=9).sets(
        np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.4, 0.4, 0.2]])
    )

    assert sets.tolist() == [[True, True, True], [True, False, False], [True, True, False]]


def test_a_set_is_never_empty() -> None:
    """No class reaches 0.9; the most likely one is in the set all the same."""
    sets = ClassSets(threshold=0.1, alpha=0.5, patients=9).sets(two([0.3, 0.6]))

    assert sets.tolist() == [[True, False], [False, True]]


def test_a_patient_of_whom_nothing_is_known_counts_as_equally_likely_for_each_class() -> None:
    scores = np.array([[np.nan, 0.5], [0.0, 0.0]])

    assert ClassSets(0.5, 0.1, 9).sets(scores).all()
    assert calibrate_classes(scores, np.array([0, 1]), alpha=0.5).threshold == 0.5


def test_half_width_by_hand() -> None:
    """Residuals 1 to 9; at 50 %, the fifth: ceil(10 * 0.5)."""
    truths = np.arange(1.0, 10.0) * np.array([1, -1, 1, -1, 1, -1, 1, -1, 1])
    bands = calibrate_values(np.zeros(9), truths, alpha=0.5)

    assert bands.half_width == 5.0
    assert bands.sets(np.array([10.0])).tolist() == [[5.0, 15.0]]


def test_a_prediction_that_is_no_number_has_no_ends_and_counts_as_missed() -> None:
    predictions = np.array([np.nan, 0.0, 0.0, 0.0])

    assert calibrate_values(predictions, np.full(4, 2.0), alpha=0.4).half_width == 2.0
    assert ValueBands(1.0, 0.1, 9).sets(predictions[:1]).tolist() == [[-np.inf, np.inf]]
    with pytest.raises(DataError, match="no number for too many patients"):
        calibrate_values(predictions, np.full(4, 2.0), alpha=0.2)


@pytest.mark.parametrize(("alpha", "fewest"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3)])
def test_fewer_patients_than_the_level_needs_are_an_error_with_an_instruction(
    alpha: float, fewest: int
) -> None:
    labels = np.zeros(fewest, dtype=np.int64)
    calibrate_classes(two([0.5] * fewest), labels, alpha=alpha)
    with pytest.raises(DataError) as error:
        calibrate_classes(two([0.5] * (fewest - 1)), labels[1:], alpha=alpha)

    assert error.value.details["found"] == f"{fewest - 1} patients"
    assert f"at least {fewest} patients" in error.value.details["wanted"]
    assert "calibrate on more patients" in error.value.details["do"]


def test_few_patients_cover_as_often_as_promised() -> None:
    """Of ten, at 90 %, the tenth: ceil(11 * 0.9), which covers 10 / 11. The plain quantile, the
    ninth of ten, would cover 9 / 11."""
    generator = np.random.default_rng(3)
    covered = []
    for _ in range(4000):
        residuals = generator.normal(size=11)
        bands = calibrate_values(np.zeros(10), residuals[:10], alpha=0.1)
        covered.append(abs(residuals[10]) <= bands.half_width)

    assert np.mean(covered) == pytest.approx(10 / 11, abs=0.015)


def test_sets_hold_the_true_class_as_often_as_promised_though_the_model_is_too_sure() -> None:
    generator = np.random.default_rng(4)
    covered, alone = [], []
    for _ in range(200):
        sets = calibrate_classes(*three_classes(generator, 100), alpha=0.1)
        scores, labels = three_classes(generator, 200)
        held = sets.sets(scores)
        covered.append(held[np.arange(200), labels].mean())
        alone.append((scores.argmax(axis=1) == labels).mean())

    assert np.mean(alone) < 0.75
    assert 0.89 <= np.mean(covered) <= 0.93


@given(st.integers(9, 60), st.integers(0, 2**32 - 1))
def test_a_larger_alpha_never_adds_a_class(patients: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = three_classes(generator, patients)
    strict = calibrate_classes(scores, labels, alpha=0.1).sets(scores)
    loose = calibrate_classes(scores, labels, alpha=0.4).sets(scores)

    assert (loose <= strict).all()
    assert loose.any(axis=1).all()


def test_what_does_not_fit_together_is_a_mistake_of_the_caller() -> None:
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        calibrate_classes(two([0.5, 0.5]), one)
    with pytest.raises(ValueError, match="outside the 2 classes"):
        calibrate_classes(two([0.5]), one + 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrate_classes(two([0.5]), one, alpha=1.0)
    with pytest.raises(ValueError, match="patients, classes"):
        calibrate_classes(np.array([0.5]), one)
    with pytest.raises(ValueError, match="do not fit truths"):
        calibrate_values(np.zeros(3), np.zeros(2))
