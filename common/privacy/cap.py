"""The cap on a sample: how many patients one step may work on, and what the cap costs in delta.

A Poisson sample may be of any size, and a step on more patients takes longer. So a sample of more
than k patients counts as the empty one: that step adds noise alone. Where no data set has more than
``most_patients`` patients, this happens in none of a study's steps but with probability at most

    tau = steps x P(Bin(most_patients, q) > k).

Let M be the training without the cap and M' with it. Both do the same as long as no sample is too
large, whatever the coordinator sends in between. If M is (epsilon, d) private, then for neighbours
D and D' and any set S of outcomes

    P[M'(D) in S] <= P[M(D) in S] + tau <= e^epsilon P[M(D') in S] + d + tau
                  <= e^epsilon P[M'(D') in S] + d + (1 + e^epsilon) tau.

So a tenth of a study's delta is set aside for the last term, and noise is calibrated at the rest.
k is the least number for which that suffices a thousandfold and at epsilon 20, so that the same
holds for everything that a patient takes part in (``docs/privacy.md``).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

SHARE: Final = 0.1
"""Of delta, what is set aside for samples that are too large."""
MOST_STUDIES: Final = 1000
"""Plans that may be charged to one patient; what was set aside covers them all together."""
MOST_EPSILON: Final = 20.0
"""The largest total that a policy may allow: beyond, nobody is protected, and the proof ends."""
_TERMS: Final = 4096
_ROUNDING: Final = 1e-4
"""What float64 may lose in the logarithm of a probability, for up to 10^9 patients."""


def composed(delta: float) -> float:
    """The part of a delta at which noise is calibrated and accounts are read."""
    return (1 - SHARE) * delta


@lru_cache(maxsize=1024)
def least_cap(most_patients: int, rate: float, steps: int, epsilon: float, delta: float) -> int:
    """The least cap on a sample that a study can afford, k.

    Args:
        most_patients: no data set has more patients in training; public.
        rate: probability with which a patient takes part in a step, q.
        steps: of the whole study.
        epsilon: of the study.
        delta: of the study.

    Returns:
        The least k with ``steps x (1 + e^max(epsilon, 20)) x P(Bin(most_patients, q) > k)`` at
        most ``delta / 10 / 1000``; all patients where each takes part in every step.
    """
    if rate == 1.0:
        return most_patients
    allowed = math.log(SHARE * delta / MOST_STUDIES) - math.log(steps)
    allowed -= _log_one_plus_exp(max(epsilon, MOST_EPSILON)) + _ROUNDING
    too_small, enough = -1, most_patients
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if log_tail(most_patients, rate, middle) <= allowed:
            enough = middle
        else:
            too_small = middle
    return enough


def log_tail(count: int, rate: float, most: int) -> float:
    """The logarithm of P(Bin(count, rate) > most), ``rate`` below 1.

    The terms are added up, each from the one before, and those far out are bounded by a
    geometric series: never too small but for rounding. Up to the mean, where nothing is rare, it
    is 0. In logarithms, since the numbers that are asked for may be too small for a float.
    """
    first = most + 1
    if first > count:
        return -math.inf
    if first <= count * rate:
        return 0.0
    at_first = (
        math.lgamma(count + 1)
        - math.lgamma(first + 1)
        - math.lgamma(count - first + 1)
        + first * math.log(rate)
        + (count - first) * math.log1p(-rate)
    )
    places = np.arange(first, min(count, first + _TERMS), dtype=np.float64)
    ratios = (count - places) / (places + 1) * (rate / (1 - rate))  # all below 1, and falling
    terms = np.cumprod(ratios)
    beyond = terms[-1] * ratios[-1] / (1 - ratios[-1]) if count > first + _TERMS else 0.0
    return at_first + math.log1p(float(terms.sum() + beyond))


def _log_one_plus_exp(number: float) -> float:
    # log(1 + e^x) without e^x, which overflows for an epsilon of 1000.
    return number + math.log1p(math.exp(-number))
