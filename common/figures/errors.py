"""Figures of errors of a predicted number: from counts in cells with known noise, or from values.

Errors are shares of the reach, from -1 to 1: a larger error counts as the reach. Noise hides a few
patients, and of a few anything may be true: a mean of errors that may be anything has an interval
that says nothing.

*Cells.* One beyond each end of the reach, and between them edges at the squares of even steps:
small errors are told apart, and the larger ones, whose noise weighs most in a mean, have few cells.

*Means and the median* are those of :mod:`common.figures.overlap`, whose interval holds whatever
lies inside a cell unless its neighbours say that it is even.

*R²* is 1 - A / B, with A the sum of squared errors and B that of the squared distances of the true
numbers from their mean, which are the errors of somebody who predicts the mean for all; of both a
larger one counts as the reach. A ratio r is kept when A - r B, which has mean zero at the true
one, lies within 1.96 standard deviations of zero (Fieller 1954). Nothing says how a patient's error
goes with the number, but both squares are positive, so the variance of their difference is at most
the sum of their own squares' means. As for means, unseen patients are added at the far end: 1.96
squared of them, with the largest error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.figures.auc import evenness
from common.figures.intervals import Estimate, Evidence, Z, absent, judged, too_wide
from common.figures.overlap import COARSE, Overlaps, exactly

_RATIOS = np.linspace(0.0, 1.0, 2001)
_PATIENTS = "patients"
_NOTHING = 1e-12
"""A sum of squares that is rounding alone."""


def edges(bins: int) -> NDArray[np.float64]:
    """(bins + 1,) edges of the cells of an error within the reach; ``bins`` is even."""
    steps = np.arange(-bins, bins + 1, 2) / bins
    return np.asarray(np.sign(steps) * steps**2)


def place(error: float, bins: int) -> int:
    """The cell of an error, of ``bins + 2``; an edge belongs to the cell nearer to 0."""
    return int(np.searchsorted(edges(bins), error, side="left" if error > 0.0 else "right"))


@dataclass(frozen=True)
class Cells:
    """Patients in cells of a value, each with the same noise.

    Attributes:
        low: (cells,) least value of a cell's patients.
        high: (cells,) greatest; equal to ``low`` where the cell holds a single value.
        counts: (cells,) patients; pooled, never clipped.
        noise: variance of the noise in each cell, in counts squared.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.float64]
    noise: float

    @property
    def total(self) -> float:
        """How many patients there are, as read."""
        return float(self.counts.sum())

    @property
    def total_noise(self) -> float:
        """Variance of the noise in that."""
        return self.noise * len(self.counts)

    @property
    def binned(self) -> bool:
        """Whether cells hold a range of values; else there is one for each patient's own."""
        return bool((self.high > self.low).any())

    def signed(self, of: str) -> Overlaps:
        """Errors, from -1 to 1, as (1 + error) / 2.

        Args:
            of: the patients, in words.
        """
        low, high = (1.0 + self.low) / 2.0, (1.0 + self.high) / 2.0
        if not self.binned:
            return exactly(low[self.counts > 0.0], of=of)
        return Overlaps(low, high, self.counts, self.noise, of)

    def absolute(self) -> Overlaps:
        """Errors, from -1 to 1, by their size: two cells of a size are one."""
        if not self.binned:
            return exactly(np.abs(self.low[self.counts > 0.0]), of=_PATIENTS)
        half = len(self.low) // 2
        counts = self.counts[half:] + self.counts[:half][::-1]
        return Overlaps(self.low[half:], self.high[half:], counts, 2.0 * self.noise, _PATIENTS)

    def squares(self, about: float, most: float) -> _Squares:
        """Of the distances from a value, of which a larger one counts as ``most``."""
        low, high = self.low - about, self.high - about
        ends = np.minimum(low**2, most**2), np.minimum(high**2, most**2)
        wide = high > low
        within = (_below(high, most) - _below(low, most)) / np.where(wide, high - low, 1.0)
        # The mean over an even cell, and how far from it a square may lie.
        mean = np.where(wide, within, ends[0])
        least = np.where((low < 0.0) & (high > 0.0), 0.0, np.minimum(*ends))
        reach = np.maximum(mean - least, np.maximum(*ends) - mean)
        uneven = 1.0 - evenness(np.maximum(self.counts, 0.0))
        return _Squares(
            mean=mean,
            total=float(self.counts @ mean),
            sampling=max(float(self.counts @ mean**2), 0.0),
            noise=self.noise * float(mean @ mean),
            hidden=float(np.maximum(self.counts, 0.0) @ (uneven * reach)),
        )


def in_cells(counts: NDArray[np.integer], *, noise: float) -> Cells:
    """Errors in the cells of :func:`place`.

    Args:
        counts: (bins + 2,) pooled, never clipped.
        noise: variance of the noise in each cell.
    """
    inner = edges(len(counts) - 2)
    low, high = np.append(-1.0, inner), np.append(inner, 1.0)
    return Cells(low, high, counts.astype(np.float64), noise)


def in_even_cells(counts: NDArray[np.integer], *, noise: float) -> Cells:
    """Numbers from 0 to 1 in cells of the same width; arguments as of :func:`in_cells`."""
    even = np.arange(len(counts) + 1) / len(counts)
    return Cells(even[:-1], even[1:], counts.astype(np.float64), noise)


def known(values: NDArray[np.float64], there: NDArray[np.bool_] | None = None) -> Cells:
    """A cell for each patient's own value.

    Args:
        values: (patients,). Sensitive, unless the patients are a simulation's.
        there: (patients,) who of them is counted; all, if it is not said.
    """
    counts = np.ones(len(values)) if there is None else there.astype(np.float64)
    return Cells(values, values, counts, 0.0)


def together(several: Sequence[Cells]) -> Cells:
    """The sum of counts in the same cells."""
    counts = np.sum([each.counts for each in several], axis=0)
    noise = sum(each.noise for each in several)
    return Cells(several[0].low, several[0].high, counts, noise)


@dataclass(frozen=True)
class _Squares:
    """A sum of squares over patients.

    Attributes:
        mean: (cells,) of a square over a cell.
        total: the sum.
        sampling: its variance about zero, of the sample.
        noise: its variance, of the noise.
        hidden: how far the sum of the values may lie from that of the cells.
    """

    mean: NDArray[np.float64]
    total: float
    sampling: float
    noise: float
    hidden: float


def _below(value: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """The integral of min(x^2, most^2) from 0 to a value."""
    inner = np.clip(value, -most, most)
    return np.asarray(inner**3 / 3.0 + most**2 * (value - inner))


def explained(errors: Cells, numbers: Cells, reach: float) -> Estimate:
    """R²: 1 less the ratio of squared errors to squared distances from the mean; 0 if less.

    Args:
        errors: as shares of the reach.
        numbers: the true ones of the same patients, from 0 to 1.
        reach: in which a larger error or distance counts.
    """
    evidence = Evidence(_PATIENTS, numbers.total, float(np.sqrt(numbers.total_noise)))
    noisy = numbers.noise > 0.0
    if numbers.total <= 0.0:
        return absent(evidence.lacking(by_noise=noisy))
    middle = (numbers.low + numbers.high) / 2.0
    mean = float(np.clip(numbers.counts @ middle / numbers.total, 0.0, 1.0))
    unit = reach**2
    wrong, around = errors.squares(0.0, 1.0), numbers.squares(mean, reach)
    if around.total <= _NOTHING:
        same = "every patient has the same number"
        return absent(evidence.lacking(by_noise=True) if noisy else same)
    # About the mean that is read, squares differ from those about the true one by its own error's.
    far = float(((middle - mean) ** 2).sum())
    gap = np.abs(unit * wrong.total - _RATIOS * around.total)

    def ends(noise: float, hidden: float) -> tuple[float, float]:
        """The interval with these shares of the noise, and of what cells hide."""
        of_errors = unit**2 * (wrong.sampling + Z * Z + noise * wrong.noise)
        of_numbers = around.sampling + noise * around.noise
        own = (around.total + noise * numbers.noise * far) / numbers.total
        width = Z * np.sqrt(of_errors + _RATIOS**2 * of_numbers) + _RATIOS * own
        width += hidden * (unit * wrong.hidden + _RATIOS * around.hidden)
        # The nearest ratio is always kept.
        kept = _RATIOS[np.append(np.flatnonzero(gap <= width), gap.argmin())]
        return 1.0 - float(kept.max()), 1.0 - float(kept.min())

    why = COARSE
    if too_wide(ends(1.0, 0.0)):
        why = evidence.lacking(by_noise=not too_wide(ends(0.0, 0.0)))
    return judged(1.0 - unit * wrong.total / around.total, ends(1.0, 1.0), why=why)


def scaled(found: Estimate, low: float, high: float) -> Estimate:
    """A figure of [0, 1] on another range."""
    if found.value is None:
        return found
    value, *ends = (low + (high - low) * each for each in (found.value, found.low, found.high))
    return Estimate(value, ends[0], ends[1], found.meaningful, found.why)
