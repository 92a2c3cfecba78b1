"""What a mechanism costs: three accountants for sampled Gaussian mechanisms.

*Within a study*, whose parameters are fixed at approval, epsilon is composed with privacy
loss distributions (Koskela et al. 2020; Doroshenko et al. 2022) by dp-accounting, rounded so
that it is never too small: the figure that is reported. *Across studies*, which are chosen
after seeing earlier results, Renyi differential privacy (Mironov 2017; Mironov et al. 2019)
is added up, by Opacus, as a filter: a sum that is stopped before it passes a bound (Feldman
and Zrnic 2021; Lecuyer 2021). It is also the fast bound of each round's check. A third
opinion, privacy random variables (Gopi et al. 2021), is held against both by the tests.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.metadata import version
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.files import canonical_json, sha256
from common.settings import Section

ORDERS: Final = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 64),
    *(64, 80, 96, 128, 192, 256, 384, 512, 1024),
)
"""Renyi orders at which divergences are added up."""
ACCOUNTANT: Final = sha256(canonical_json([version("opacus"), *ORDERS]))
"""Names what computes :func:`renyi`: divergences that were stored are good while it is the same."""
MOST_NOISE: Final = 100.0
"""A noise multiplier above this drowns any update; an epsilon that needs it is refused."""
LEAST_NOISE: Final = 0.3
"""A noise multiplier below this protects nobody (one step costs epsilon 19 at delta 1e-5)."""
_DECIMALS: Final = 4
SAME: Final = 1e-6
"""Relative difference that two machines' arithmetic may show in an epsilon."""
LARGE: Final = 100.0
"""Epsilon above which its Renyi bound is taken: at most a fifth more, and composing a loss that is
spread so wide takes minutes and gigabytes. Below it takes a few seconds and 300 MiB at most, with
the most steps and the least delta that a study may have (``make bench NAME=accountant``)."""
_ROUGH_ORDERS: Final = (1.1, 1.25, 1.5, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""Renyi orders that tell quickly what is out of reach by far."""
_WHOLE_ROUGH_ORDERS: Final = tuple(order for order in _ROUGH_ORDERS if isinstance(order, int))


class SampledGaussian(Section):
    """An accounting event: ``count`` Gaussian mechanisms on Poisson samples.

    Attributes:
        sampling_rate: probability with which a patient takes part, q.
        noise_multiplier: standard deviation of the noise over the L2 sensitivity.
        count: how many times.
    """

    sampling_rate: float = Field(gt=0, le=1)
    noise_multiplier: float = Field(gt=0, le=10_000)
    count: int = Field(ge=1)


def epsilon_of(rate: float, noise_multiplier: float, count: int, delta: float) -> float:
    """Epsilon of ``count`` sampled Gaussian mechanisms, by privacy loss distribution."""
    event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise_multiplier, count=1)
    return epsilon(((event, count),), delta)


@lru_cache(maxsize=1024)
def epsilon(events: tuple[tuple[SampledGaussian, int], ...], delta: float) -> float:
    """The smallest epsilon known such that the composition is (epsilon, delta) private.

    It is the privacy loss distribution's, on a grid fine enough for the loss of one step.
    Where that loss is too small for any affordable grid, the Renyi bound may be the smaller; above
    :data:`LARGE` it is taken at once.

    Args:
        events: each event and how many times it happened.
        delta: the failure probability.
    """
    if not events:
        return 0.0
    if _is_above(LARGE, events, delta):
        return renyi_epsilon(np.sum([times * renyi(event) for event, times in events], 0), delta)
    # Like Opacus below: a second or two, which processes that only read plans do not spend.
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    loss = min(event.sampling_rate / event.noise_multiplier for event, _ in events)
    accountant = PLDAccountant(value_discretization_interval=1e-3 if loss > 5e-3 else 1e-4)
    for event, times in events:
        gaussian = GaussianDpEvent(event.noise_multiplier)
        sampled = PoissonSampledDpEvent(event.sampling_rate, gaussian)
        accountant.compose(gaussian if event.sampling_rate == 1.0 else sampled, event.count * times)
    found = float(accountant.get_epsilon(delta))
    if loss > 5e-4:
        return found
    divergences = np.sum([times * renyi(event) for event, times in events], axis=0)
    return min(found, renyi_epsilon(divergences, delta))


@lru_cache(maxsize=1024)
def calibrate(target: float, delta: float, rate: float, count: int) -> float:
    """The smallest noise multiplier, to four decimals, that keeps ``count`` steps private.

    It leaves room for another machine, whose arithmetic differs in the last digits, to find
    the target kept too.

    Returns:
        The multiplier, at least :data:`LEAST_NOISE`, or infinity where :data:`MOST_NOISE` does
        not suffice by far.
    """
    kept = target * (1 - SAME)
    most = 16 * MOST_NOISE
    # A first guess: for many steps epsilon is about q sqrt(T) / sigma.
    low, high = LEAST_NOISE, min(max(rate * math.sqrt(count) / target, LEAST_NOISE), most)
    while exceeds(rate, high, count, delta, kept):
        if high == most:
            return math.inf
        low, high = high, min(2 * high, most)
    while high - low > 10**-_DECIMALS * high:
        middle = (low + high) / 2
        if exceeds(rate, middle, count, delta, kept):
            low = middle
        else:
            high = middle
    # Rounded up: more noise than needed keeps the promise, less would not.
    return math.ceil(high * 10**_DECIMALS) / 10**_DECIMALS


def exceeds(rate: float, noise_multiplier: float, count: int, delta: float, target: float) -> bool:
    """Whether epsilon is above ``target``.

    The privacy loss of a mechanism that is far above takes minutes and gigabytes to compose,
    and a plan that was received may ask for it: a Renyi bound, never as loose as this, tells.
    """
    if noise_multiplier < LEAST_NOISE:
        return True
    event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise_multiplier, count=1)
    if _is_above(3 * target + 1, ((event, count),), delta):
        return True
    return epsilon_of(rate, noise_multiplier, count, delta) > target


def _is_above(most: float, events: tuple[tuple[SampledGaussian, int], ...], delta: float) -> bool:
    """Whether the Renyi bound at :data:`_ROUGH_ORDERS` is above ``most``."""
    # A whole order is quick, the others take a third of a calibration, and the lowest bound counts:
    # where whole orders keep within ``most``, the others are not asked.
    for orders in (_WHOLE_ROUGH_ORDERS, _ROUGH_ORDERS):
        rough = [
            event.count
            * times
            * _divergences_at(orders, event.sampling_rate, event.noise_multiplier)
            for event, times in events
        ]
        if _best(orders, np.sum(rough, axis=0), delta) <= most:
            return False
    return True


@lru_cache(maxsize=4096)
def _divergences_at(
    orders: tuple[float, ...], rate: float, noise_multiplier: float
) -> npt.NDArray[np.float64]:
    from opacus.accountants.analysis.rdp import compute_rdp

    found = np.asarray(
        compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=orders),
        dtype=np.float64,
    )
    # What cannot be computed bounds nothing; a comparison with it would always be false.
    return np.where(np.isnan(found), np.inf, found)


def renyi(event: SampledGaussian) -> npt.NDArray[np.float64]:
    """Renyi divergences of an event at :data:`ORDERS`, float64; they add under composition."""
    return _divergences_at(ORDERS, event.sampling_rate, event.noise_multiplier) * event.count


def renyi_epsilon(divergences: npt.NDArray[np.float64], delta: float) -> float:
    """Epsilon of Renyi divergences at :data:`ORDERS`, the best order taken.

    A bound where everything was fixed in advance. Where events were chosen after seeing results,
    the order must not depend on them: see :func:`filter_epsilon`.
    """
    return _best(ORDERS, divergences, delta)


def filter_order(most: float, delta: float) -> float:
    """The order at which a filter adds up, for a bound of ``most`` on epsilon.

    It is the one of :data:`ORDERS` at which the most Gaussian mechanisms, whose divergence is
    proportional to the order, fit under the bound. It follows from the bound alone: theorems
    on filters hold for an order that is fixed in advance. They do not cover taking the best
    order afterwards, when it depends on results; and a filter that takes the best bound that
    there is can fail (compare Regehr et al. 2026, arXiv:2602.15815).
    """
    orders = np.array(ORDERS)
    return float(orders[np.argmax((most - _conversion(ORDERS, delta)) / orders)])


def filter_epsilon(divergences: npt.NDArray[np.float64], delta: float, order: float) -> float:
    """Epsilon of divergences that were added up at :data:`ORDERS`, read at one order.

    Valid also where each event was chosen after seeing the results of the earlier ones, as
    long as the order was fixed before and the caller stops before the bound is passed: the
    whole is then Renyi private at that order (Feldman and Zrnic 2021, arXiv:2008.11193;
    Lecuyer 2021, arXiv:2103.01379), and converts as ever.
    """
    return _best((order,), divergences[[ORDERS.index(order)]], delta)


def _best(orders: tuple[float, ...], divergences: npt.NDArray[np.float64], delta: float) -> float:
    if not divergences.any():
        return 0.0
    return max(float((divergences + _conversion(orders, delta)).min()), 0.0)


@lru_cache(maxsize=64)
def _conversion(orders: tuple[float, ...], delta: float) -> npt.NDArray[np.float64]:
    """What epsilon adds to a divergence of each order (Balle et al. 2020, theorem 21)."""
    # epsilon = D_a + log(1 - 1/a) - (log delta + log a) / (a - 1)
    order = np.array(orders, dtype=np.float64)
    return np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)
