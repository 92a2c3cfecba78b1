from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.figures.intervals import Estimate, Z, mean, share


def test_without_noise_a_share_has_wilson_s_interval() -> None:
    """Eight of ten: the example that textbooks give, 0.490 to 0.943."""
    figure = share(8, 2, of="patients")

    assert figure.value == 0.8
    assert [figure.low, figure.high] == pytest.approx([0.490, 0.943], abs=5e-4)


def test_noise_on_many_patients_has_the_delta_method_s_interval() -> None:
    """Half of a million through noise: the standard deviation is that of s/2 - f/2 over total."""
    figure = share(5e5, 5e5, noise=(4e8, 4e8), of="patients")
    reach = Z * math.sqrt(0.25e6 + 0.25 * 8e8) / 1e6

    assert figure.high - 0.5 == pytest.approx(reach, rel=0.01)
    assert 0.5 - figure.low == pytest.approx(reach, rel=0.01)


@given(st.floats(-500, 2000), st.floats(-500, 2000), st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_share_lies_in_its_interval_and_the_interval_in_its_range(
    successes: float, failures: float, on_successes: float, on_failures: float
) -> None:
    figure = share(successes, failures, noise=(on_successes, on_failures), of="patients")

    assert 0.0 <= figure.low <= figure.high <= 1.0
    assert figure.value is None or figure.low <= figure.value <= figure.high
    assert figure.meaningful == (figure.why is None)


@given(st.integers(0, 400), st.integers(1, 400), st.floats(0, 100), st.floats(0.1, 100))
def test_more_noise_never_narrows_an_interval(
    successes: int, failures: int, noise: float, more: float
) -> None:
    quiet = share(successes, failures, noise=(noise, noise), of="patients")
    loud = share(successes, failures, noise=(noise + more, noise + more), of="patients")

    assert loud.high - loud.low >= quiet.high - quiet.low - 1e-9


def test_drowned_counts_say_so_in_plain_words() -> None:
    figure = share(20, 10, noise=(400.0, 400.0), of="patients of class sick")

    assert not figure.meaningful
    assert figure.why == (
        "noise exceeds signal: 30 patients of class sick read through noise of ±55"
    )


def test_a_total_below_zero_has_no_figure() -> None:
    figure = share(5, -9, noise=(50.0, 50.0), of="patients")

    assert figure == Estimate(
        None, 0.0, 1.0, False, "noise exceeds signal: -4 patients read through noise of ±20"
    )


def test_few_patients_are_told_from_noise() -> None:
    assert share(1, 1, of="patients").why == "too few patients: 2 patients"
    assert share(0, 0, of="patients named sick").why == "too few patients: 0 patients named sick"


def test_a_share_over_independent_patients_covers_the_truth_through_noise() -> None:
    generator = np.random.default_rng(5)
    truth, patients, sigma, releases = 0.8, 300, 15.0, 2000
    right = generator.binomial(patients, truth, releases)
    noise = generator.normal(0.0, sigma, (2, releases))
    figures = [
        share(s + a, patients - s + b, noise=(sigma**2, sigma**2), of="patients")
        for s, a, b in zip(right, *noise, strict=True)
    ]

    assert np.mean([figure.low <= truth <= figure.high for figure in figures]) >= 0.94


def test_a_mean_over_classes_by_hand() -> None:
    parts = (Estimate(0.8, 0.7, 0.9), Estimate(0.6, 0.4, 0.7))

    alike = mean(parts, independent=False)
    assert (alike.value, alike.low, alike.high) == pytest.approx((0.7, 0.55, 0.8))
    apart = mean(parts, independent=True)
    assert apart.low == pytest.approx(0.7 - math.hypot(0.1, 0.2) / 2)
    assert apart.high == pytest.approx(0.7 + math.hypot(0.1, 0.1) / 2)


def test_a_mean_with_a_part_that_has_no_figure_has_none_and_says_why() -> None:
    missing = share(0, 0, of="patients of class rare")

    figure = mean((Estimate(0.8, 0.7, 0.9), missing), independent=True)
    assert figure.value is None
    assert figure.why == missing.why


def test_a_mean_does_not_take_courage_from_intervals_cut_short_at_one() -> None:
    cut = Estimate(0.9, 0.0, 1.0, meaningful=False, why="noise exceeds signal")

    figure = mean((cut, cut), independent=True)
    assert (figure.low, figure.high) == (0.0, 1.0)
    assert figure.why == "noise exceeds signal"
