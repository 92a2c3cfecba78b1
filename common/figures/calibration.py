"""How well scores agree with how often patients are positive, for two classes.

The expected calibration error (Naeini, Cooper and Hauskrecht 2015) is the mean over patients
of the distance, in each bin of scores, between the mean score and the share of positives. In a
pooled histogram a bin's centre stands for the mean of its scores; the interval allows for the
half bin by which the two may differ.

The figure adds up absolute values, so noise can only raise it. What the noise alone is
expected to add is taken out, and the lower end of the interval allows for as much as noise
and sampling could have added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from common.figures.intervals import Estimate, Evidence, Z, absent, judged, share, too_wide

_WIDEST = 0.25
_MEAN_OF_ABSOLUTE = float(np.sqrt(2.0 / np.pi))


@dataclass(frozen=True)
class CalibrationPoint:
    """One bin of a calibration curve.

    Attributes:
        score: the mean score of the bin's patients.
        rate: the share of positives among them.
        patients: how many they are.
    """

    score: float
    rate: Estimate
    patients: float


@dataclass(frozen=True)
class Scaled:
    """Where the bins of a histogram lie after its scores were scaled.

    Attributes:
        scores: (bins,) the mean score of each bin's patients, as well as it is known.
        blur: how far those means may be off, on average over patients.
    """

    scores: NDArray[np.float64]
    blur: float


def calibration_error(
    positives: NDArray[np.integer],
    negatives: NDArray[np.integer],
    *,
    noise_variance: float = 0.0,
    scaled: Scaled | None = None,
) -> Estimate:
    """Expected calibration error from a pooled histogram of the probability of class 1.

    Args:
        positives: (bins,) pooled counts of class 1 by increasing score; never clipped.
        negatives: (bins,) pooled counts of class 0.
        noise_variance: variance of the noise in each cell, in counts squared.
        scaled: what the bins' scores became; without it they are those that were counted.
    """
    y, x = positives.astype(np.float64), negatives.astype(np.float64)
    centres = (np.arange(len(y)) + 0.5) / len(y)
    at = scaled or Scaled(centres, 0.5 / len(y))
    return _error(y, x, at.scores, noise_variance=noise_variance, blur=at.blur)


def exact_calibration_error(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, bins: int = 10
) -> Estimate:
    """Expected calibration error over equal bins, from the scores themselves.

    Args:
        scores: (patients,) probability of class 1.
        labels: (patients,) 0 or 1.
        bins: number of equal bins on [0, 1].
    """
    y, x, centres = _by_bin(scores, labels, bins)
    return _error(y, x, centres, noise_variance=0.0, blur=0.0)


def exact_calibration_points(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, bins: int = 10
) -> tuple[CalibrationPoint, ...]:
    """The calibration curve of the scores themselves: a point for each bin that has patients."""
    points = []
    y, x, centres = _by_bin(scores, labels, bins)
    for score, a, b in zip(centres.tolist(), y.tolist(), x.tolist(), strict=True):
        rate = share(a, b, of="patients in the bin")
        if rate.value is not None:
            points.append(CalibrationPoint(score, rate, a + b))
    return tuple(points)


def _by_bin(
    scores: NDArray[np.floating], labels: NDArray[np.integer], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positives, negatives and the mean score of each bin."""
    bin_of = np.searchsorted(np.arange(1, bins) / bins, scores, side="right")
    everyone = np.bincount(bin_of, minlength=bins).astype(np.float64)
    y = np.bincount(bin_of[labels == 1], minlength=bins).astype(np.float64)
    total = np.bincount(bin_of, weights=scores, minlength=bins)
    return y, everyone - y, total / np.maximum(everyone, 1.0)


def _error(
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    scores: NDArray[np.float64],
    *,
    noise_variance: float,
    blur: float,
) -> Estimate:
    """The error from each bin's gap, ``y - score * (y + x)``, in patients."""
    total = float(y.sum() + x.sum())
    evidence = Evidence("patients", total, float(np.sqrt(2.0 * len(y) * noise_variance)))
    if total <= 0.0:
        return absent(evidence.lacking(by_noise=noise_variance > 0.0))
    # A bin's gap in patients, |y - s (y + x)|, with s its score.
    gaps = np.abs(y * (1.0 - scores) - x * scores)
    # Its variance: y (1 - s) - x s, of two cells with noise of their own.
    noise = noise_variance * ((1.0 - scores) ** 2 + scores**2)
    sampling = np.maximum(y, 0.0) * (1.0 - scores) ** 2 + np.maximum(x, 0.0) * scores**2
    error = max(float((gaps - _added(gaps, np.sqrt(noise))).sum()), 0.0)
    of_total = (error / total * evidence.noise) ** 2
    ends = _error_ends(gaps, noise + sampling, of_total)
    quiet = _error_ends(gaps, sampling, 0.0)
    return judged(
        error / total,
        (ends[0] / total - blur, ends[1] / total + blur),
        why=evidence.lacking(by_noise=not too_wide(quiet, _WIDEST * total)),
        widest=_WIDEST,
    )


def _added(gaps: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much noise adds to each gap on average: that of a folded normal distribution."""
    if not deviation.any():
        return np.zeros_like(gaps)
    ratio = gaps / deviation
    # E|N(m, d^2)| = d sqrt(2/pi) exp(-m^2 / 2 d^2) + m (1 - 2 Phi(-m / d)), Leone et al. 1961.
    peak = _MEAN_OF_ABSOLUTE * np.exp(-(ratio**2) / 2.0)
    folded = deviation * (peak + ratio * (1.0 - 2.0 * ndtr(-ratio)))
    return np.asarray(folded - gaps)


def _error_ends(
    gaps: NDArray[np.float64], variance: NDArray[np.float64], of_total: float
) -> tuple[float, float]:
    """Interval of the sum of the true gaps, given that chance adds to it but never takes away."""
    reach = Z * float(np.sqrt(variance.sum() + of_total))
    # Where the true gap is zero, chance adds the mean of its absolute value: sqrt(2/pi) deviations.
    most_added = _MEAN_OF_ABSOLUTE * float(np.sqrt(variance).sum())
    return float(gaps.sum()) - most_added - reach, float(gaps.sum()) + reach
