"""Exact aggregation of fixed-point updates.

Each update is a vector of whole numbers, each site's weight a whole number of its plan.
Their weighted sum is kept in 64 bits, into which it was proved to fit before the first
round, so it is the same whatever order the replies come in, and one vector is held
whatever their number. The mean is formed once, at the end, in float64.

Medians, trimmed means and Krum need every reply at once (Yin et al. 2018; Blanchard et al.
2017): for them the replies are gathered, and handed on in the order of the sites' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.strategies import ORDER_STATISTICS, StrategyName
from common.update import FixedPoint, Integers

Weights = npt.NDArray[np.float32]
Contribution = tuple[npt.NDArray[np.float64], int]
"""Weights that a site, or all of them in the mean, would have; and by how much they count."""
_CHUNK: Final = 1 << 18

MEMORY_NOTES: Final = {
    False: "replies were folded as they came: memory does not grow with the number of sites",
    True: "this strategy needs every reply at once: memory grows with the number of sites",
}


def needs_every_reply(strategy: StrategyName) -> bool:
    """Whether a strategy is exempt from constant memory."""
    return strategy in ORDER_STATISTICS


class WeightedSum:
    """The running sum over sites of weight times units: one int64 vector.

    Args:
        length: number of entries of each update.
        weights: whole number by which each site counts.
    """

    def __init__(self, length: int, weights: Mapping[str, int]) -> None:
        self._total = np.zeros(length, dtype=np.int64)
        self._weights = dict(weights)
        self._sites: set[str] = set()

    @property
    def sites(self) -> tuple[str, ...]:
        """Who is in the sum, by name."""
        return tuple(sorted(self._sites))

    @property
    def total(self) -> npt.NDArray[np.int64]:
        """The sum so far."""
        return self._total

    def add(self, site: str, units: npt.NDArray[Any]) -> None:
        """Add a site's units, whatever comes before or after.

        Raises:
            ValueError: the site is in the sum already.
        """
        if site in self._sites:
            raise ValueError(f"{site} is in the sum already")
        self._sites.add(site)
        weight = np.int64(self._weights[site])
        for start in range(0, units.size, _CHUNK):  # so that no second vector is formed
            piece = slice(start, start + _CHUNK)
            self._total[piece] += units[piece].astype(np.int64) * weight

    def mean(self, fixed_point: FixedPoint) -> npt.NDArray[np.float64]:
        """The weighted mean of the changes, float64."""
        weight = sum(self._weights[site] for site in self._sites)
        mean = self._total.astype(np.float64)
        mean /= weight
        mean *= fixed_point.unit
        return mean

    def contributions(self, current: Weights, fixed_point: FixedPoint) -> list[Contribution]:
        """One: the weights that the mean change leads to."""
        mean = self.mean(fixed_point)
        mean += current
        return [(mean, 1)]


class Gathered:
    """Every reply of a round, for strategies that need them all.

    Args:
        weights: whole number by which each site counts.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = dict(weights)
        self._units: dict[str, Integers] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """Who is in it, by name."""
        return tuple(sorted(self._units))

    def add(self, site: str, units: npt.NDArray[Any]) -> None:
        """Keep a site's units.

        Raises:
            ValueError: the site's units are kept already.
        """
        if site in self._units:
            raise ValueError(f"the units of {site} are kept already")
        self._units[site] = units

    def contributions(self, current: Weights, fixed_point: FixedPoint) -> list[Contribution]:
        """One for each site: the weights that it would have, in the order of the names."""
        return [
            (fixed_point.decode(self._units[site]) + current, self._weights[site])
            for site in self.sites
        ]


Fold = WeightedSum | Gathered


def begin(strategy: StrategyName, length: int, weights: Mapping[str, int]) -> Fold:
    """An empty fold of one round's updates, of the kind that the strategy needs."""
    return Gathered(weights) if needs_every_reply(strategy) else WeightedSum(length, weights)
