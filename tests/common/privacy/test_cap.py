"""The cap on a sample: the least that delta can pay for, held against exact enumeration."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from scipy.stats import binom

from common.privacy.cap import MOST_EPSILON, MOST_STUDIES, SHARE, composed, least_cap, log_tail


def exact_tail(count: int, rate: Fraction, most: int) -> Fraction:
    """P(Bin(count, rate) > most), every outcome counted."""
    return sum(
        (
            math.comb(count, drawn) * rate**drawn * (1 - rate) ** (count - drawn)
            for drawn in range(most + 1, count + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("count", [1, 2, 7, 40, 90])
@pytest.mark.parametrize("rate", [Fraction(1, 1024), Fraction(1, 8), Fraction(1, 2)])
def test_the_tail_is_exact(count: int, rate: Fraction) -> None:
    for most in range(count):
        exact = exact_tail(count, rate, most)
        found = log_tail(count, float(rate), most)
        if most + 1 <= count * rate:
            assert found == 0.0  # not rare, and no less than the truth
        else:
            logarithm = math.log(exact.numerator) - math.log(exact.denominator)
            assert found == pytest.approx(logarithm, abs=1e-9)
    assert log_tail(count, float(rate), count) == -math.inf


def test_a_tail_too_small_for_a_float_is_not_taken_for_none() -> None:
    """P(all but one or more of 2000 are drawn, each with 1/4) is about 1e-1200."""
    exact = exact_tail(2000, Fraction(1, 4), 1998)
    logarithm = math.log(exact.numerator) - math.log(exact.denominator)
    assert log_tail(2000, 0.25, 1998) == pytest.approx(logarithm, rel=1e-9)


@pytest.mark.parametrize("deviations", [1, 6, 9])
def test_what_lies_far_out_is_counted_too(deviations: int) -> None:
    """Of 10^8 patients, one in two: more terms matter than are added up one by one."""
    most = 5 * 10**7 + 5000 * deviations
    exact = float(binom.logsf(most, 10**8, 0.5))
    assert exact - 1e-6 <= log_tail(10**8, 0.5, most) <= exact + 0.6 / deviations**2


@pytest.mark.parametrize(("count", "rate"), [(40, Fraction(1, 4)), (90, Fraction(1, 32))])
@pytest.mark.parametrize(("steps", "epsilon"), [(1, 1.0), (100, 8.0), (100, 25.0)])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_the_cap_is_the_least_that_its_part_of_delta_pays_for(
    count: int, rate: Fraction, steps: int, epsilon: float, delta: float
) -> None:
    """A tenth of delta, for a thousand studies, at the study's epsilon and at twenty."""

    def paid(cap: int) -> bool:
        factor = steps * (1 + math.exp(max(epsilon, 20.0)))
        return factor * float(exact_tail(count, rate, cap)) <= delta / 10 / 1000

    cap = least_cap(count, float(rate), steps, epsilon, delta)
    assert paid(cap)
    assert not paid(cap - 1)
    assert 1 <= cap <= count


def test_the_numbers_that_documents_state() -> None:
    assert (SHARE, MOST_STUDIES, MOST_EPSILON) == (0.1, 1000, 20.0)
    assert composed(1e-5) == pytest.approx(0.9e-5)


def test_where_everybody_takes_part_in_every_step_nobody_is_too_many() -> None:
    assert least_cap(40, 1.0, 100, 8.0, 1e-5) == 40


def test_no_affordable_cap_is_as_good_as_all_patients() -> None:
    """At epsilon 1000 even the rarest of samples is dear: nothing is capped away."""
    assert least_cap(40, 0.25, 100, 1000.0, 1e-5) == 40


def test_a_large_hospital_pays_for_little_more_than_a_batch() -> None:
    """512 of 10,000 at most: some nine standard deviations above the mean."""
    cap = least_cap(10_000, 0.0512, 100, 8.0, 1e-5)
    assert 512 + 8 * 22 < cap < 512 + 11 * 22
    assert least_cap(10**9, 1e-3, 10**6, 8.0, 1e-5) < 10**6 + 12 * 1000
