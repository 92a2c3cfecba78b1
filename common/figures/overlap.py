"""Figures of patients' Dice: from counts in cells that carry known noise, or from the values.

Dice (1945) is twice what two masks share over the sum of both: 1 where they agree, 0 where they
have nothing in common. A patient has one Dice for each class, that of all images together. Both
kinds of counts, noised ones in bins and exact ones with a cell for each value, share every formula.

*Mean.* With c_i patients at the value m_i, a mean a is kept when ``sum of c_i (m_i - a)``, which
has mean zero at the true mean whatever the noise, lies within 1.96 standard deviations of zero, as
in Fieller (1954). Its variance is that of the sample about a, and that of the noise,
``v * sum of (m_i - a)^2``. A few patients may all be alike by chance, and a rare missed lesion is
then among those not seen: as many patients as 1.96 squared are added at the far end of the range.
Of a share of 0 or 1 that is Wilson's interval (1927), to first order.

*Quantiles.* The q-quantile lies in a cell when at most a share q of the patients lies below it and
at least q not above it. A cell is kept unless one of the two is refuted by the counts below and
above its edge, as for Woodruff's interval (1952), with the noise in both and a correction for
continuity. Only two tests concern the true cell, so the cells kept hold it in 95 of 100 releases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.figures.auc import evenness
from common.figures.intervals import Estimate, Evidence, Z, absent, judged, too_wide

_MEANS = np.linspace(0.0, 1.0, 2001)
COARSE = "bins too coarse: each holds a wide range of values"
_FEWEST = 2
"""Cells that many patients leave of a quantile that lies on an edge."""


@dataclass(frozen=True)
class Overlaps:
    """Patients by their Dice, in cells by increasing value.

    Attributes:
        low: (cells,) least Dice of a cell's patients.
        high: (cells,) greatest; equal to ``low`` where the cell holds a single value.
        counts: (cells,) patients; pooled, never clipped.
        noise: variance of the noise in each cell, in counts squared.
        of: the patients, in words.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.float64]
    noise: float
    of: str

    @property
    def total(self) -> float:
        """How many patients there are, as read."""
        return float(self.counts.sum())

    @property
    def _evidence(self) -> Evidence:
        return Evidence(self.of, self.total, float(np.sqrt(self.noise * len(self.counts))))

    def mean(self) -> Estimate:
        """The mean Dice, with its 95 % interval."""
        if self.total <= 0.0:
            return absent(self._evidence.lacking(by_noise=self.noise > 0.0))
        middle = (self.low + self.high) / 2.0
        value = float(np.clip(self.counts @ middle / self.total, 0.0, 1.0))
        hidden = self._hidden()
        low, high = self._mean_ends(middle, value, self.noise)
        quiet = self._mean_ends(middle, value, 0.0)
        why = self._evidence.lacking(by_noise=not too_wide(quiet))
        if not too_wide((low, high)):
            why = COARSE
        return judged(value, (low - hidden, high + hidden), why=why)

    def _mean_ends(
        self, middle: NDArray[np.float64], value: float, noise: float
    ) -> tuple[float, float]:
        """The least and the greatest mean compatible with the counts."""
        unseen = Z * Z * np.where(value > _MEANS, _MEANS, 1.0 - _MEANS) ** 2
        sampling = np.maximum(_squares(self.counts, middle), 0.0)
        variance = sampling + unseen + noise * _squares(np.ones_like(middle), middle)
        gap = (value - _MEANS) * self.total
        # The nearest mean is always kept, and the interval goes a step of the grid further.
        kept = np.append(np.flatnonzero(gap**2 <= Z * Z * variance), np.abs(gap).argmin())
        first, last = max(int(kept.min()) - 1, 0), min(int(kept.max()) + 1, len(_MEANS) - 1)
        return float(_MEANS[first]), float(_MEANS[last])

    def _hidden(self) -> float:
        """How far the mean of the values may lie from that of the cells' middles.

        Where a cell's neighbours hold as many patients, its own lie evenly about its middle; else
        they may all lie at one of its ends.
        """
        wide = self.high > self.low
        counts = np.maximum(self.counts[wide], 0.0)
        reach = (1.0 - evenness(counts)) * (self.high - self.low)[wide] / 2.0
        everyone = float(np.maximum(self.counts, 0.0).sum())
        return float(counts @ reach) / max(everyone, 1.0)

    def quantile(self, share: float) -> Estimate:
        """The Dice that a share of the patients does not exceed, with its 95 % interval."""
        if self.total <= 0.0:
            return absent(self._evidence.lacking(by_noise=self.noise > 0.0))
        kept = self._kept(share, self.noise)
        ends = float(self.low[kept].min()), float(self.high[kept].max())
        quiet = self._kept(share, 0.0)
        clear = not too_wide((float(self.low[quiet].min()), float(self.high[quiet].max())))
        # Where bins are too coarse no number of patients helps, but noise can still be the worst.
        why = self._evidence.lacking(by_noise=clear or len(quiet) <= _FEWEST)
        if len(kept) <= _FEWEST:
            why = COARSE
        return judged(self._crossing(share), ends, why=why)

    def _kept(self, share: float, noise: float) -> NDArray[np.intp]:
        """The cells that may hold the quantile."""
        cells = len(self.counts)
        upto = np.cumsum(self.counts)
        inside = np.arange(1.0, cells + 1.0)
        # Over an edge: patients below it less their share of all, and the variance of that.
        gap = upto - share * self.total
        spread = inside * (1.0 - share) ** 2 + (cells - inside) * share**2
        variance = max(self.total, 0.0) * share * (1.0 - share) + noise * spread
        reach = Z * np.sqrt(variance) + 0.5
        # All patients lie above the first cell's lower edge and below the last one's upper edge.
        too_many = np.append(False, gap[:-1] > reach[:-1])
        too_few = np.append(gap[:-1] < -reach[:-1], False)
        kept = np.flatnonzero(~too_many & ~too_few)
        return kept if len(kept) else np.array([np.abs(gap).argmin()])

    def _crossing(self, share: float) -> float:
        """Where the counts reach the share, straight within a cell."""
        upto = np.append(0.0, np.cumsum(self.counts))
        # Noise makes sums fall as well as rise: the mean of the nearest rising ones around them.
        rising = np.maximum.accumulate(upto) + np.minimum.accumulate(upto[::-1])[::-1]
        target = share * self.total
        sums = rising / 2.0
        cell = min(int(np.searchsorted(sums[1:], target)), len(self.counts) - 1)
        step = float(sums[cell + 1] - sums[cell])
        part = float(np.clip((target - sums[cell]) / step, 0.0, 1.0)) if step > 0.0 else 0.5
        return float(self.low[cell] + part * (self.high[cell] - self.low[cell]))


def _squares(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of ``weight * (value - a)^2``, for each mean a."""
    linear, square = float(weights @ values), float(weights @ values**2)
    return np.asarray(square - 2.0 * _MEANS * linear + _MEANS**2 * float(weights.sum()))


def binned(counts: NDArray[np.integer], *, noise: float, of: str) -> Overlaps:
    """Patients in a cell for a Dice of 0 and one for each of equal bins on (0, 1].

    Args:
        counts: (1 + bins,) by increasing Dice; pooled, never clipped.
        noise: variance of the noise in each cell.
        of: the patients, in words.
    """
    bins = len(counts) - 1
    edges = np.arange(bins + 1) / bins
    low, high = np.append(0.0, edges[:-1]), np.append(0.0, edges[1:])
    return Overlaps(low, high, counts.astype(np.float64), noise, of)


def exactly(values: NDArray[np.floating], *, of: str) -> Overlaps:
    """Patients with a cell for each value, and for 0 and 1, beyond which no value lies.

    Args:
        values: (patients,) in [0, 1]. Sensitive, unless the patients are a simulation's.
        of: the patients, in words.
    """
    at, places = np.unique(np.append(values, [0.0, 1.0]), return_inverse=True)
    counts = np.bincount(places[: len(values)], minlength=len(at)).astype(np.float64)
    return Overlaps(at, at, counts, 0.0, of)
