from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.auc_coverage import Coverage, Setting, coverage, textbook
from common.figures.auc import area_under_roc, by_score, roc_points
from common.figures.intervals import Estimate

cells = st.lists(st.integers(0, 20), min_size=6, max_size=6).map(np.array)


def area(
    positives: list[int] | np.ndarray,
    negatives: list[int] | np.ndarray,
    noise: float = 0.0,
    *,
    binned: bool = True,
) -> Estimate:
    return area_under_roc(
        np.asarray(positives), np.asarray(negatives), noise=(noise, noise), binned=binned, of="sick"
    )


def test_ties_count_half_by_hand() -> None:
    """Positives 1 and 3 in two bins, negatives 2 and 2: (1*1 + 3*(2+1)) of 16 pairs."""
    assert area([1, 3], [2, 2]).value == pytest.approx(10 / 16)


@given(cells, cells)
def test_without_noise_the_area_is_scikit_learn_s(
    positives: np.ndarray, negatives: np.ndarray
) -> None:
    if positives.sum() == 0 or negatives.sum() == 0:
        return
    scores = np.tile(np.arange(6), 2)
    labels = np.repeat([1, 0], 6)
    weights = np.concatenate([positives, negatives])

    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert area(positives, negatives).value == pytest.approx(expected, abs=1e-12)


def test_many_patients_have_delong_s_interval() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(4000) < 0.4
    counts = by_score(generator.normal(labels.astype(float), 1.0), labels)

    figure, (low, high) = area(*counts, binned=False), textbook(*counts)
    assert [figure.low, figure.high] == pytest.approx([low, high], abs=2e-3)


def test_perfect_separation_of_few_patients_is_not_certainty() -> None:
    figure = area([0, 5], [5, 0], binned=False)

    assert figure.value == figure.high == 1.0
    assert 0.4 < figure.low < 0.9


@given(
    st.lists(st.integers(-40, 200), min_size=6, max_size=6),
    st.lists(st.integers(-40, 200), min_size=6, max_size=6),
    st.floats(0.0, 2000.0),
)
def test_whatever_noise_makes_of_the_counts_the_figure_stays_in_its_range(
    positives: list[int], negatives: list[int], noise: float
) -> None:
    figure = area(positives, negatives, noise)

    assert 0.0 <= figure.low <= figure.high <= 1.0
    assert figure.value is None or figure.low <= figure.value <= figure.high
    assert figure.meaningful == (figure.why is None)


@given(cells, cells, st.sampled_from([0.0, 4.0]))
def test_swapping_the_classes_turns_the_interval_round(
    positives: np.ndarray, negatives: np.ndarray, noise: float
) -> None:
    figure, swapped = area(positives, negatives, noise), area(negatives, positives, noise)
    if figure.value is None or swapped.value is None:
        return
    assert swapped.value == pytest.approx(1.0 - figure.value)
    assert (swapped.low, swapped.high) == pytest.approx((1 - figure.high, 1 - figure.low), abs=2e-3)


def test_why_a_figure_means_nothing_tells_noise_from_few_patients_and_coarse_bins() -> None:
    assert area([5, 3, 2, 8], [9, 2, 6, 3], noise=900.0).why == (
        "noise exceeds signal: 18 sick read through noise of ±118"
    )
    assert area([0, 1, 0, 1], [1, 0, 1, 1]).why == "too few patients: 2 sick"
    assert area([0, 0, 400, 0], [0, 0, 400, 0]).why == (
        "bins too coarse: 100% of the pairs compared share a bin"
    )
    assert area([-3, 0, 2, 0], [9, 4, 1, 0], noise=9.0).why == (
        "noise exceeds signal: -1 sick read through noise of ±12"
    )
    assert area([0, 0], [3, 4]).why == "too few patients: 0 sick"


@pytest.mark.matrix(setting=lambda setting: setting.auc)
@pytest.mark.parametrize(
    "setting",
    [
        Setting(0.7, 500, 0.2, 0.0, 10),
        Setting(0.7, 1000, 0.2, 3.0, 10, spread=1.5),
        Setting(0.85, 100, 0.5, 1.0, 10),
        Setting(0.85, 2000, 0.7, 8.0, 20, spread=0.7),
        Setting(0.85, 2000, 0.5, 0.0, 10, sharpness=6.0),
        Setting(0.85, 1000, 0.5, 2.0, 10, sharpness=0.1),
        Setting(0.95, 300, 0.2, 2.0, 20),
        Setting(0.95, 2000, 0.5, 8.0, 10),
    ],
    ids=lambda setting: setting.name,
)
def test_the_interval_covers_the_true_area_in_93_of_100_releases(setting: Setting) -> None:
    """Of the scores before they are binned; each release with new patients and new noise."""
    shares = coverage(setting, releases=500, generator=np.random.default_rng(11))

    assert shares.ours >= 0.93


def test_where_noise_is_moderate_the_interval_is_narrow_enough_to_be_a_figure() -> None:
    """Coverage is not bought with intervals that say nothing."""
    setting = Setting(0.85, 2000, 0.5, 4.0, 10)
    shares = coverage(setting, releases=50, generator=np.random.default_rng(0))

    assert shares == Coverage(ours=shares.ours, textbook=shares.textbook, meaningful=1.0)


def test_the_curve_is_scikit_learn_s() -> None:
    generator = np.random.default_rng(2)
    labels = generator.random(200) < 0.4
    scores = np.round(generator.normal(labels.astype(float), 1.0), 1)
    expected = roc_curve(labels, scores, drop_intermediate=False)

    false_rates, true_rates = roc_points(*by_score(scores, labels))
    assert false_rates == pytest.approx(expected[0])
    assert true_rates == pytest.approx(expected[1])


def test_a_noisy_curve_is_clipped_for_drawing_and_absent_without_patients() -> None:
    false_rates, true_rates = roc_points(np.array([-2, 4, 8]), np.array([9, -1, 2]))

    assert false_rates.tolist() == pytest.approx([0.0, 0.2, 0.1, 1.0])
    assert true_rates.tolist() == pytest.approx([0.0, 0.8, 1.0, 1.0])
    assert roc_points(np.array([-2, 1]), np.array([3, 3]))[0].size == 0
