"""The area under the ROC curve, from counts in bins that carry known noise.

With x the negatives' and y the positives' counts by score, the pairs won are
``U = sum over b of y_b * (x below b + x_b / 2)`` and the area is ``U / (m * n)``, with m and n
the totals of y and x. Of noisy counts the sums are unbiased but their ratio is not, so the
interval inverts a test as Fieller (1954) does: an area a is kept when ``U - a * m * n``, which
has mean zero at the true area whatever the noise, lies within 1.96 standard deviations of
zero. Its variance has two parts:

- sampling: DeLong, DeLong and Clarke-Pearson (1988) from the counts, less what noise adds to
  that estimate; never below that of Hanley and McNeil (1982) at a, as in method 5 of Newcombe
  (2006), which keeps the interval honest with few patients and near an area of 1;
- noise: that of a product of two noisy vectors, the quadratic term included.

Within a bin the order of the patients is lost, and ties count half. What the area may have
lost by it widens the interval on that side: see :func:`_hidden_order`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.figures.intervals import Estimate, Evidence, Z, absent, judged, too_wide

_AREAS = np.linspace(0.0, 1.0, 2001)


@dataclass(frozen=True)
class _Counts:
    """Counts by increasing score, with what the formulas need of them.

    ``wins`` is, for each score, the negatives below and half of those level with it;
    ``losses``, the positives above and half of those level.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    wins: NDArray[np.float64]
    losses: NDArray[np.float64]
    m: float
    n: float

    @property
    def area(self) -> float:
        return float(self.y @ self.wins) / (self.m * self.n)


def _count(positives: NDArray[np.integer], negatives: NDArray[np.integer]) -> _Counts:
    y, x = positives.astype(np.float64), negatives.astype(np.float64)
    m, n = float(y.sum()), float(x.sum())
    return _Counts(y, x, np.cumsum(x) - x / 2.0, m - np.cumsum(y) + y / 2.0, m, n)


def by_score(
    scores: NDArray[np.floating], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of positives and of negatives at each distinct score, by increasing score.

    Args:
        scores: (patients,) scores.
        positive: (patients,) who is positive.
    """
    cell = np.unique(scores, return_inverse=True)[1]
    cells = int(cell.max(initial=-1)) + 1
    return (
        np.bincount(cell[positive], minlength=cells).astype(np.int64),
        np.bincount(cell[~positive], minlength=cells).astype(np.int64),
    )


def area_under_roc(
    positives: NDArray[np.integer],
    negatives: NDArray[np.integer],
    *,
    noise: tuple[float, float] = (0.0, 0.0),
    binned: bool,
    of: str,
) -> Estimate:
    """The area under the ROC curve with its 95 % interval.

    Args:
        positives: (scores,) the positives' counts by increasing score; pooled, never clipped.
        negatives: (scores,) the negatives' counts.
        noise: variances of the noise in each cell of the two, in counts squared.
        binned: whether a cell holds a range of scores, whose order is lost, or a single score.
        of: the positive patients, in words.

    Returns:
        The area with ties counted half. The interval is for the area of unbinned scores in the
        population that the patients were drawn from.
    """
    counts = _count(positives, negatives)
    spread = np.sqrt(np.multiply(noise, len(positives)))
    scarcer = int(counts.n < counts.m)
    evidence = Evidence(
        (of, f"patients other than {of}")[scarcer],
        (counts.m, counts.n)[scarcer],
        float(spread[scarcer]),
    )
    if evidence.count <= 0.0:
        return absent(evidence.lacking(by_noise=sum(noise) > 0.0))
    ends, quiet = _ends(counts, noise), _ends(counts, (0.0, 0.0))
    why = evidence.lacking(by_noise=not too_wide(quiet))
    if not binned:
        return judged(counts.area, ends, why=why)
    if not too_wide(ends):
        why = f"bins too coarse: {_tied(counts).sum():.0%} of the pairs compared share a bin"
    return judged(counts.area, _widened(counts, ends), why=why)


def _ends(counts: _Counts, noise: tuple[float, float]) -> tuple[float, float]:
    """The least and the greatest area compatible with the counts."""
    area = float(np.clip(counts.area, 0.0, 1.0))
    gap = (area - _AREAS) * counts.m * counts.n
    variance = np.maximum(_sampling(counts, noise), _floor(counts)) + _noise(counts, noise)
    # The nearest area is always kept: on a grid none may lie within a short interval.
    kept = np.append(np.flatnonzero(gap**2 <= Z * Z * variance), np.abs(gap).argmin())
    # One step of the grid further on both sides: a grid may only widen the interval.
    first, last = max(int(kept.min()) - 1, 0), min(int(kept.max()) + 1, len(_AREAS) - 1)
    return float(_AREAS[first]), float(_AREAS[last])


def _squares(wins: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Sum over scores of ``(wins - a * total)^2``, for each area a."""
    linear, square = float(wins.sum()), float(wins @ wins)
    size = len(wins) * total**2
    return np.asarray(square - 2.0 * _AREAS * total * linear + _AREAS**2 * size)


def _row_norms(cells: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(1 - a)^2, a^2, (1/2 - a)^2`` by area, and how often each is in each score's row."""
    below = np.arange(cells, dtype=np.float64)
    times = np.stack([below, below[::-1], np.ones(cells)])
    return np.stack([(1.0 - _AREAS) ** 2, _AREAS**2, (0.5 - _AREAS) ** 2]), times


def _noise(counts: _Counts, noise: tuple[float, float]) -> NDArray[np.float64]:
    """Variance that the noise gives ``U - a m n``, for each area a.

    The squares of noisy counts overstate those of the true ones by the noise's own share, which
    is taken out; what is left is never less than the product of the two noises.
    """
    on_y, on_x = noise
    norms, times = _row_norms(len(counts.y))
    product = on_x * on_y * (times.sum(axis=1) @ norms)
    linear = on_y * _squares(counts.wins, counts.n) + on_x * _squares(counts.losses, counts.m)
    # Taking out what noise adds may leave less than zero; the noises' product is always there.
    return np.asarray(np.maximum(linear - product, product))


def _sampling(counts: _Counts, noise: tuple[float, float]) -> NDArray[np.float64]:
    """DeLong's variance of ``U - a m n``, for each area a, without what noise adds to it."""
    on_y, on_x = noise
    gap = (counts.area - _AREAS) * counts.m * counts.n
    norms, times = _row_norms(len(counts.y))
    of_y = _weighted(counts.y, counts.wins, counts.n) - on_x * (counts.y @ times.T @ norms)
    of_x = _weighted(counts.x, counts.losses, counts.m) - on_y * (
        counts.x @ times[[1, 0, 2]].T @ norms
    )
    of_y, of_x = of_y - gap**2 / counts.m, of_x - gap**2 / counts.n
    return of_y * _bessel(counts.m) + of_x * _bessel(counts.n)


def _weighted(
    weights: NDArray[np.float64], wins: NDArray[np.float64], total: float
) -> NDArray[np.float64]:
    """Sum over scores of ``weight * (wins - a * total)^2``, for each area a."""
    square, linear = float(weights @ wins**2), float(weights @ wins)
    size = float(weights.sum()) * total**2
    return np.asarray(square - 2.0 * _AREAS * total * linear + _AREAS**2 * size)


def _bessel(count: float) -> float:
    return count / (max(count, 2.0) - 1.0)


def _floor(counts: _Counts) -> NDArray[np.float64]:
    """Hanley and McNeil's variance of ``U - a m n``, with Newcombe's symmetric sizes."""
    others = max((counts.m + counts.n) / 2.0 - 1.0, 0.0)
    curvature = (1.0 - _AREAS) / (2.0 - _AREAS) + _AREAS / (1.0 + _AREAS)
    return np.asarray(counts.m * counts.n * _AREAS * (1.0 - _AREAS) * (1.0 + others * curvature))


def _widened(counts: _Counts, ends: tuple[float, float]) -> tuple[float, float]:
    """The interval, with what ties in a bin may hide added on the side away from 1/2."""
    up, down = max(ends[1] - 0.5, 0.0), max(0.5 - ends[0], 0.0)
    return ends[0] - _hidden_order(counts, down, -1.0), ends[1] + _hidden_order(counts, up, 1.0)


def _tied(counts: _Counts) -> NDArray[np.float64]:
    """The share of the pairs of a positive and a negative that lies in each bin together."""
    return np.asarray(np.maximum(counts.y * counts.x, 0.0) / (counts.m * counts.n))


def _hidden_order(counts: _Counts, side: float, sign: float) -> float:
    """How far the area of the unbinned scores may lie beyond that of the bins.

    Patients of one bin are harder to tell apart than patients at large, so the area within a
    bin lies between 1/2 and the area overall. Where a bin's neighbours hold as many patients,
    densities that are linear over the three give the area within, and twice that is allowed.
    The outermost bins, where a saturated model crowds its scores, have no neighbours to tell.
    """
    y, x = counts.y, counts.x
    tied = _tied(counts)
    overall = min(side / max(1.0 - float(tied.sum()), 1e-9), 0.5)
    even = np.minimum(evenness(y), evenness(x))
    slopes = np.zeros_like(y)
    slopes[1:-1] = x[1:-1] * (y[2:] - y[:-2]) - y[1:-1] * (x[2:] - x[:-2])
    # With slopes a and b a bin, the area within it is 1/2 + (a - b) / 12; a central difference over
    # two bins makes it 24.
    sloped = 2.0 * sign * float(even @ slopes) / (24.0 * counts.m * counts.n)
    within = float(np.clip(sloped, 0.0, overall * float(even @ tied)))
    return overall * float((1.0 - even) @ tied) + within


def evenness(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each bin's neighbours over the bin itself, in [0, 1]; 0 at both ends."""
    even = np.zeros_like(cells)
    middle = np.maximum(cells[1:-1], 1.0)
    even[1:-1] = np.clip((cells[2:] + cells[:-2]) / (2.0 * middle), 0.0, 1.0)
    return even


def roc_points(
    positives: NDArray[np.integer], negatives: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ROC curve through the edges between scores, from (0, 0) to (1, 1), for a plot.

    Args:
        positives: (scores,) the positives' counts by increasing score.
        negatives: (scores,) the negatives' counts. For scores that were not binned, both are
            what :func:`by_score` gives.

    Returns:
        False and true positive rates, (scores + 1,) float64. Clipped to [0, 1] for drawing;
        with noise they may still fall where a curve would rise. Empty where a class's total is
        not positive.
    """
    rates = []
    for counts in (negatives, positives):
        total = float(counts.sum())
        if total <= 0.0:
            return np.empty(0), np.empty(0)
        rates.append(np.concatenate([[0.0], np.cumsum(counts[::-1]) / total]).clip(0.0, 1.0))
    return rates[0], rates[1]
