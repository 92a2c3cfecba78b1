"""Where in the bins of a released histogram the patients' logits lie.

A histogram says how many patients a bin holds, not where in it they are. Within an inner bin that
hardly matters. The outermost bins have no end in logits, and a model that is too sure of itself
crowds its scores there: of [0.9, 1) the centre's logit is 2.9, while the patients' may be 8. How
fast the inner counts rise towards an end tells how far the patients go beyond it, so the logits of
each class are taken as normal, with mean and spread fitted to the counts. Only the shape within a
bin is taken from that fit; how many patients are in a bin, and of which class, is not.

Where noise leaves nothing to fit, the prior remains: the standard logistic distribution, of which
the scores lie flat in each bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit, logit, ndtr

NODES: Final = 32
"""Logits that stand for a bin; its integrals then err by far less than the fit."""
_LOGISTIC: Final = float(np.log(np.pi / np.sqrt(3.0)))
"""Logarithm of the standard deviation of the standard logistic distribution."""
_FARTHEST: Final = 40.0
"""No logit is farther from an outer edge: beyond, a score is 0 or 1 in float64."""
_PRIOR: Final = np.array([4.0, 0.7])
"""Standard deviations of the mean and of the logarithm of the spread, before counts are seen."""


@dataclass(frozen=True)
class Spread:
    """The logits of a histogram's patients, as far as it tells.

    Attributes:
        logits: (bins, nodes) places within each bin.
        weights: (bins, nodes) share of the bin's patients at each; rows add up to 1.
        patients: (bins,) how many patients the fit expects; positive, where counts need not be.
    """

    logits: NDArray[np.float64]
    weights: NDArray[np.float64]
    patients: NDArray[np.float64]


def spread(
    positives: NDArray[np.float64],
    negatives: NDArray[np.float64],
    edges: NDArray[np.float64],
    *,
    noise: tuple[float, float],
) -> Spread:
    """Fit each class's logits, and place those of both in the bins.

    Args:
        positives: (bins,) counts by increasing score; never clipped.
        negatives: (bins,) likewise.
        edges: (bins + 1,) scores between which the bins lie, the last of which is 1.
        noise: variance of the noise in each cell of the two.
    """
    ends = np.asarray(logit(edges))
    places, widths = _nodes(ends)
    density = 1e-9 * _logistic(places)
    patients = np.full(len(positives), 1e-9)
    for counts, variance in zip((positives, negatives), noise, strict=True):
        total = float(counts.sum())
        # A noisy total's square is too large by the noise, and information grows with the square.
        total *= max(1.0 - len(counts) * variance / total**2, 0.0) if total > 0.0 else 0.0
        # A class that noise has drowned places nobody.
        if total <= 0.0:
            continue
        mean, deviation = _normal(counts, total, ends, variance)
        share = _within(mean, deviation, ends)
        patients += total * share
        density += total * _bell((places - mean) / deviation) / deviation
    mass = density * widths
    return Spread(places, mass / mass.sum(axis=1, keepdims=True), patients)


def _nodes(ends: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places in each bin and the width of each; in an open bin they are denser near its edge."""
    steps = (np.arange(NODES) + 0.5) / NODES
    low, high = ends[:-1, None], ends[1:, None]
    even = np.full(NODES, 1.0 / NODES)
    out, out_widths = _FARTHEST * steps**2, _FARTHEST * 2.0 * steps / NODES
    with np.errstate(invalid="ignore"):
        places = low + (high - low) * steps
        widths = (high - low) * even
    opens_up, opens_down = np.isinf(high), np.isinf(low)
    places = np.where(opens_up, low + out, np.where(opens_down, high - out, places))
    return places, np.where(opens_up | opens_down, out_widths, widths)


def _normal(
    counts: NDArray[np.float64], total: float, ends: NDArray[np.float64], variance: float
) -> tuple[float, float]:
    """Mean and standard deviation of the normal distribution that fits a class's counts."""

    def misfit(settings: NDArray[np.float64]) -> NDArray[np.float64]:
        expected = total * _within(settings[0], float(np.exp(settings[1])), ends)
        from_prior = (settings - np.array([0.0, _LOGISTIC])) / _PRIOR
        return np.append((counts - expected) / np.sqrt(expected + variance + 1.0), from_prior)

    start = np.array([0.0, _LOGISTIC])
    bounds = ([-20.0, -2.0], [20.0, 3.0])
    # The shape within a bin needs no more than four digits.
    found = least_squares(misfit, start, bounds=bounds, max_nfev=100, ftol=1e-5, xtol=1e-5)
    return float(found.x[0]), float(np.exp(found.x[1]))


def _within(mean: float, deviation: float, ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each bin's share of a normal distribution, of which only what the bins span is counted."""
    below = ndtr((ends - mean) / deviation)
    return np.asarray(np.diff(below) / max(float(below[-1] - below[0]), 1e-12))


def _bell(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-(x**2) / 2.0) / np.sqrt(2.0 * np.pi))


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(expit(x) * expit(-x))
