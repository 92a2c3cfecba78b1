from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from simulations.audit.tradeoff import TradeOff, sampled_gaussian, worst


@pytest.mark.parametrize("false_positives", [1e-4, 0.01, 0.2, 0.7])
def test_without_sampling_the_curve_is_the_gaussian_one(false_positives: float) -> None:
    """Dong, Roth and Su 2022: Phi(Phi^-1(alpha) + mu), here with mu = 2 over 4 steps."""
    found = sampled_gaussian(1.0, 1.0, 4).most(false_positives)
    exact = norm.cdf(norm.ppf(false_positives) + 2.0)

    assert exact <= found <= 1.01 * exact


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 2.0, 4.0])
def test_a_threshold_on_one_sampled_step_lies_on_or_below_the_curve(threshold: float) -> None:
    """With probability 0.3 the patient takes part and shifts the noise by one."""
    false_positives = norm.sf(threshold)
    exact = 0.7 * norm.sf(threshold) + 0.3 * norm.sf(threshold - 1.0)

    assert sampled_gaussian(0.3, 1.0, 1).most(false_positives) >= exact


@pytest.mark.parametrize("probability", [1e-6, 0.003, 0.5, 0.97])
def test_least_undoes_most_and_never_promises_too_much(probability: float) -> None:
    curve = sampled_gaussian(0.25, 2.0, 100)
    least = curve.least(probability)

    assert least <= probability
    assert curve.most(least) <= probability + 1e-12
    assert curve.most(1.02 * least + 1e-12) >= 0.99 * probability


def test_less_noise_and_more_steps_allow_a_test_more() -> None:
    few, many = sampled_gaussian(0.2, 2.0, 10), sampled_gaussian(0.2, 2.0, 40)
    quiet = sampled_gaussian(0.2, 1.0, 10)

    assert few.most(0.01) < many.most(0.01)
    assert few.most(0.01) < quiet.most(0.01)


def test_the_worst_of_several_curves_allows_whatever_one_of_them_does() -> None:
    logs = np.arange(-12.0, 40.0, 0.04)
    one, other = TradeOff(logs, np.full(len(logs), 0.3)), sampled_gaussian(0.2, 1.0, 10)
    both = worst((one, other))

    for rate in (0.0, 0.01, 0.3):
        assert both.most(rate) >= max(one.most(rate), other.most(rate))
