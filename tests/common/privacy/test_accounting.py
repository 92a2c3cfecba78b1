"""Accountants: known answers on which three agree, tight calibration, and the filter."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.rdp import get_privacy_spent
from pydantic import ValidationError
from scipy import optimize, stats

from common.privacy.accounting import (
    LARGE,
    LEAST_NOISE,
    ORDERS,
    SampledGaussian,
    calibrate,
    epsilon,
    epsilon_of,
    exceeds,
    filter_epsilon,
    filter_order,
    renyi,
    renyi_epsilon,
)

DELTA = 1e-5
MNIST = 256 / 60_000


def event(rate: float, noise: float, count: int = 1) -> SampledGaussian:
    return SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=count)


def gaussian_epsilon(noise: float, delta: float = DELTA) -> float:
    """The Gaussian mechanism's exact epsilon (Balle and Wang 2018, theorem 8)."""

    def excess(value: float) -> float:
        below = stats.norm.cdf(0.5 / noise - value * noise)
        above = stats.norm.cdf(-0.5 / noise - value * noise)
        return float(below - math.exp(value) * above - delta)

    return float(optimize.brentq(excess, 0, 100))


def sampled_epsilon(rate: float, noise: float, delta: float = DELTA) -> float:
    """One sampled Gaussian mechanism's exact epsilon: where its likelihood ratio is e^epsilon.

    With the patient, outcomes are distributed as (1 - q) N(0, s^2) + q N(1, s^2), without as
    N(0, s^2). Taking the patient away is the worse direction; both are computed.
    """

    def mixture(x: float) -> float:
        return float((1 - rate) * stats.norm.sf(x / noise) + rate * stats.norm.sf((x - 1) / noise))

    def place(ratio: float) -> float:
        return 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate)

    def removed(value: float) -> float:
        x = place(math.exp(value))
        return mixture(x) - math.exp(value) * float(stats.norm.sf(x / noise)) - delta

    def added(value: float) -> float:
        if math.exp(-value) <= 1 - rate:
            return -delta
        x = place(math.exp(-value))
        return float(stats.norm.cdf(x / noise)) - math.exp(value) * (1 - mixture(x)) - delta

    worse = float(optimize.brentq(removed, 0, 100))
    return max(worse, float(optimize.brentq(added, 0, 100)) if added(0.0) > 0 else 0.0)


def prv_epsilon(rate: float, noise: float, count: int, delta: float = DELTA) -> float:
    """By privacy random variables (Gopi et al. 2021), at most 0.02 above the truth."""
    other = PRVAccountant()
    other.history = [(noise, rate, count)]
    return float(other.get_epsilon(delta, eps_error=0.01))


@dataclass(frozen=True)
class Known:
    """A mechanism whose epsilon somebody else has worked out."""

    source: str
    rate: float
    noise: float
    count: int
    exact: float | None = None
    published: float | None = None


def epochs(number: int) -> int:
    return number * 60_000 // 256


TABLE = [
    Known("one Gaussian", 1.0, 0.5, 1, exact=gaussian_epsilon(0.5)),
    Known("one Gaussian", 1.0, 1.0, 1, exact=gaussian_epsilon(1.0)),
    Known("one Gaussian", 1.0, 10.0, 1, exact=gaussian_epsilon(10.0)),
    Known("25 Gaussians are one", 1.0, 5.0, 25, exact=gaussian_epsilon(1.0)),
    Known("1000 Gaussians are one", 1.0, 40.0, 1000, exact=gaussian_epsilon(40 / 1000**0.5)),
    Known("one sampled Gaussian", 0.5, 1.0, 1, exact=sampled_epsilon(0.5, 1.0)),
    Known("one sampled Gaussian", 0.1, 0.8, 1, exact=sampled_epsilon(0.1, 0.8)),
    Known("one sampled Gaussian", 0.01, 0.6, 1, exact=sampled_epsilon(0.01, 0.6)),
    Known("Abadi et al. 2016, figure 2", 0.01, 4.0, 10_000, published=1.26),
    # TensorFlow Privacy, tutorials/README.md, earlier and at commit 047e1ee.
    Known("TensorFlow Privacy", MNIST, 1.3, epochs(15), published=1.19),
    Known("TensorFlow Privacy", MNIST, 1.1, epochs(60), published=3.01),
    Known("TensorFlow Privacy", MNIST, 0.7, epochs(45), published=7.10),
    Known("TensorFlow Privacy", MNIST, 1.12, epochs(60), published=2.92),
    Known("TensorFlow Privacy", MNIST, 0.6, epochs(30), published=9.74),
    Known("TensorFlow Privacy", MNIST, 1.2, epochs(10), published=1.20),
    # Harvard Data Science Review 2(3), doi 10.1162/99608f92.cfc5dd25.
    Known("Bu et al. 2020, figure 4", MNIST, 1.3, epochs(20), published=1.34),
    Known("Bu et al. 2020, figure 4", MNIST, 0.7, epochs(70), published=8.68),
]


@pytest.mark.parametrize("known", TABLE, ids=lambda known: f"{known.source}, {known.noise}")
def test_three_accountants_agree_with_each_other_and_with_what_is_known(known: Known) -> None:
    """PLD is within 0.2 % above what is exact; PRV within its own error of 0.02 of PLD; RDP is
    above both. What was published is RDP with Mironov's (2017, proposition 3) conversion, which
    was bettered since."""
    loss = epsilon_of(known.rate, known.noise, known.count, DELTA)
    divergences = renyi(event(known.rate, known.noise, known.count))
    bound = renyi_epsilon(divergences, DELTA)
    third = prv_epsilon(known.rate, known.noise, known.count)
    assert third == pytest.approx(loss, abs=0.025, rel=0.002)
    assert loss <= bound * (1 + 1e-6)
    if known.exact is not None:
        assert known.exact * (1 - 1e-9) <= loss <= known.exact * 1.002
        assert third >= known.exact - 1e-3
    if known.published is not None:
        mironov = divergences + math.log(1 / DELTA) / (np.array(ORDERS) - 1)
        assert mironov.min() == pytest.approx(known.published, abs=0.011, rel=0.003)
        assert 0.6 * known.published < loss < bound < known.published


@pytest.mark.parametrize(
    ("rate", "noise", "count"),
    [(0.25, 2.46, 40), (0.25, 5.0, 400), (0.1, 6.0, 2000), (0.01, 0.88, 1000), (0.3, 30.0, 1000)],
)
def test_three_accountants_agree_on_studies_of_hospitals(
    rate: float, noise: float, count: int
) -> None:
    found = epsilon_of(rate, noise, count, DELTA)
    assert prv_epsilon(rate, noise, count) == pytest.approx(found, rel=0.02)
    assert found <= renyi_epsilon(renyi(event(rate, noise, count)), DELTA) <= 1.25 * found


@pytest.mark.parametrize(
    ("rate", "noise", "count"), [(0.001, 26.0, 100_000), (0.05, 50.0, 100), (1.0, 400.0, 10)]
)
def test_many_tiny_losses_are_no_dearer_than_renyi_says(
    rate: float, noise: float, count: int
) -> None:
    bound = renyi_epsilon(renyi(event(rate, noise, count)), DELTA)
    assert 0.5 * bound < epsilon_of(rate, noise, count, DELTA) <= bound


def test_nothing_released_costs_nothing() -> None:
    assert epsilon((), DELTA) == 0.0
    assert renyi_epsilon(np.zeros(len(ORDERS)), DELTA) == 0.0
    assert filter_epsilon(np.zeros(len(ORDERS)), DELTA, 4.0) == 0.0


def test_a_release_that_nothing_bounds_costs_everything() -> None:
    assert math.isinf(renyi_epsilon(np.full(len(ORDERS), math.inf), DELTA))
    assert math.isinf(filter_epsilon(np.full(len(ORDERS), math.inf), DELTA, 4.0))


def test_a_divergence_that_cannot_be_computed_bounds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(*, orders: tuple[float, ...], **_: object) -> list[float]:
        return [math.nan] * len(orders)

    monkeypatch.setattr("opacus.accountants.analysis.rdp.compute_rdp", nothing)
    event = SampledGaussian(sampling_rate=0.123, noise_multiplier=3.21, count=1)
    assert renyi_epsilon(renyi(event), 1e-5) == math.inf
    assert exceeds(0.123, 3.21, 1, 1e-5, 1.0)


def test_renyi_divergences_add_up() -> None:
    once, thrice = renyi(event(0.2, 2.0)), renyi(event(0.2, 2.0, 3))
    assert thrice == pytest.approx(3 * once)
    assert renyi(event(1.0, 2.0)) == pytest.approx(np.array(ORDERS) / (2 * 2.0**2))


@pytest.mark.parametrize("noise", [0.7, 2.0, 9.0])
def test_divergences_are_converted_as_opacus_converts_them(noise: float) -> None:
    divergences = renyi(event(0.1, noise, 100))
    theirs, _ = get_privacy_spent(orders=ORDERS, rdp=divergences, delta=DELTA)
    assert renyi_epsilon(divergences, DELTA) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(
    ("target", "rate", "count"), [(8.0, 0.25, 6), (3.0, 0.25, 40), (0.5, 1.0, 3), (1.0, 0.02, 500)]
)
def test_calibrated_noise_meets_its_target_and_is_hardly_more_than_needed(
    target: float, rate: float, count: int
) -> None:
    noise = calibrate(target, DELTA, rate, count)
    assert 0.998 * target < epsilon_of(rate, noise, count, DELTA) < target
    assert epsilon_of(rate, 0.999 * noise, count, DELTA) > target * (1 - 1e-6)


def test_noise_is_never_so_little_that_it_protects_nobody() -> None:
    assert calibrate(1000.0, DELTA, 0.25, 2) == LEAST_NOISE
    assert math.isinf(calibrate(1e-4, DELTA, 1.0, 1000))


@pytest.mark.parametrize("most", [0.5, 1.0, 3.0, 10.0, 30.0])
def test_the_filters_order_lets_as_many_gaussians_through_as_the_best_order_afterwards(
    most: float,
) -> None:
    """It is fixed by the bound alone, and loses next to nothing where the bound is reached."""
    order, once = filter_order(most, DELTA), renyi(event(1.0, 50.0 / most))
    fixed = sum(filter_epsilon(count * once, DELTA, order) <= most for count in range(1, 2000))
    best = sum(renyi_epsilon(count * once, DELTA) <= most for count in range(1, 2000))
    assert best > 10
    assert 0.97 * best <= fixed <= best


@lru_cache(maxsize=64)
def once(rate: float, noise: float) -> npt.NDArray[np.float64]:
    return renyi(event(rate, noise))


studies = st.lists(
    st.tuples(
        st.sampled_from([0.02, 0.2, 1.0]), st.sampled_from([0.8, 2.0, 10.0]), st.integers(1, 40)
    ),
    min_size=1,
    max_size=6,
)


@given(chosen=studies, most=st.sampled_from([1.0, 3.0, 10.0]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_filters_sum_depends_on_no_order_only_grows_and_understates_nothing(
    chosen: list[tuple[float, float, int]], most: float, data: st.DataObject
) -> None:
    """Against the best bound that holds where everything was fixed beforehand."""
    order = filter_order(most, DELTA)
    shuffled = data.draw(st.permutations(chosen))
    total, back = np.zeros(len(ORDERS)), np.zeros(len(ORDERS))
    spent = 0.0
    for (rate, noise, count), other in zip(chosen, shuffled, strict=True):
        total = total + count * once(rate, noise)
        back = back + other[2] * once(other[0], other[1])
        grown = filter_epsilon(total, DELTA, order)
        assert grown >= spent
        spent = grown
    assert filter_epsilon(back, DELTA, order) == pytest.approx(spent, rel=1e-12)
    assert spent >= renyi_epsilon(total, DELTA)


@pytest.mark.parametrize(
    "mixed", [((0.2, 2.0, 30), (1.0, 10.0, 4)), ((0.02, 0.8, 40), (0.2, 2.0, 10), (1.0, 10.0, 1))]
)
def test_a_filter_never_says_less_than_the_privacy_loss_of_the_whole(
    mixed: tuple[tuple[float, float, int], ...],
) -> None:
    total = np.sum([count * once(rate, noise) for rate, noise, count in mixed], axis=0)
    whole = epsilon(tuple((event(rate, noise), count) for rate, noise, count in mixed), DELTA)
    for most in (1.0, 3.0, 10.0):
        assert filter_epsilon(total, DELTA, filter_order(most, DELTA)) >= whole


@pytest.mark.parametrize(
    "numbers",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 1e300},
        {"noise_multiplier": math.inf},
        {"count": 0},
    ],
)
def test_an_event_without_meaning_is_refused(numbers: dict[str, float]) -> None:
    sound: dict[str, Any] = {"sampling_rate": 0.5, "noise_multiplier": 1.0, "count": 1}
    with pytest.raises(ValidationError):
        SampledGaussian(**sound | numbers)


@pytest.mark.parametrize(
    ("rate", "noise", "count"), [(1.0, 1.0, 400), (0.01, 0.3, 5000), (1e-3, 0.3, 1_000_000)]
)
def test_a_large_epsilon_is_its_renyi_bound_which_takes_no_memory(
    rate: float, noise: float, count: int
) -> None:
    """The last of them would take 13 GiB and a minute to compose."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = epsilon_of(rate, noise, count, 1e-9)
    event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=count)
    assert LARGE < found == renyi_epsilon(renyi(event), 1e-9)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200 * 1024


def test_where_the_renyi_bound_takes_over_epsilon_goes_on_growing() -> None:
    """28 Gaussians of noise 0.3 on one in ten of the patients are the last that are composed."""
    found = [epsilon_of(0.1, 0.3, count, 1e-9) for count in (26, 27, 28, 29, 30)]
    assert found == sorted(found)
    assert found[2] < 0.9 * LARGE < found[3] < LARGE
