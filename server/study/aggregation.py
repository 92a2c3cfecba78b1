"""Exact aggregation of fixed-point updates: FedAvg's weighted mean (McMahan et al. 2017).

Each update is a vector of whole numbers, and each site's weight a whole number in its plan.
Their weighted sum is kept in 64 bits; before the first round it was proved to fit. So it does
not depend on the order of the replies, and one vector is held for any number of sites. The mean
is formed once, at the end, in float64.

Where a study caps one site's share, it is the share among the sites that answered, so the
weights of the heaviest sites are known only when all have answered. Fewer than ``1 / share``
sites can be above the cap: the updates of that many, the heaviest so far, are held back.

Medians, trimmed means and Krum need every reply at once (Yin et al. 2018; Blanchard et al.
2017): for them the replies are kept, and passed on in the order of the sites' names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.study.aggregation import AggregationSettings, share_of
from common.study.fixed_point import FixedPoint, Integers
from server.study.weighing import capped

Weights = npt.NDArray[np.float32]
Contribution = tuple[npt.NDArray[np.float64], int]
"""Weights that a site, or all of them in the mean, would have; and by how much they count."""
WHOLE: Final = Fraction(1)
"""The share where there is no cap."""
_CHUNK: Final = 1 << 18
"""Entries that are multiplied at once: a buffer of 2 MiB."""

MEMORY_NOTES: Final = {
    False: "replies were added up as they came: memory does not grow with the number of sites",
    True: "this strategy needs every reply at once: memory grows with the number of sites",
}


class WeightedSum:
    """The running sum over sites of weight times units: one int64 vector.

    Args:
        length: number of entries of each update.
        weights: whole number by which each site counts at most.
        share: the largest that one site may have of the sum's weight.
    """

    def __init__(self, length: int, weights: Mapping[str, int], share: Fraction = WHOLE) -> None:
        self._total = np.zeros(length, dtype=np.int64)
        self._weights = dict(weights)
        self._share = share
        self._sites: set[str] = set()
        self._heaviest: dict[str, npt.NDArray[Any]] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites in the sum, by name."""
        return tuple(sorted(self._sites))

    @property
    def weights(self) -> dict[str, int]:
        """By how much each of them counts."""
        return capped({site: self._weights[site] for site in self.sites}, self._share)

    @property
    def total(self) -> npt.NDArray[np.int64]:
        """The weighted sum of those that are in it."""
        if not self._heaviest:
            return self._total
        total, weights = self._total.copy(), self.weights
        for site, units in self._heaviest.items():
            _add(total, units, weights[site])
        return total

    def add(self, site: str, units: npt.NDArray[Any]) -> None:
        """Add a site's units, in any order.

        Raises:
            ValueError: the site is in the sum already.
        """
        if site in self._sites:
            raise ValueError(f"{site} is in the sum already")
        self._sites.add(site)
        self._heaviest[site] = units
        # One more than can be above the cap: the lightest of them counts in full.
        if len(self._heaviest) > math.ceil(1 / self._share) - 1:
            lightest = min(self._heaviest, key=lambda name: (self._weights[name], name))
            _add(self._total, self._heaviest.pop(lightest), self._weights[lightest])

    def mean(self, fixed_point: FixedPoint) -> npt.NDArray[np.float64]:
        """The weighted mean of the changes, float64."""
        mean = self.total.astype(np.float64)  # in place from here: one vector, not three
        mean /= sum(self.weights.values())
        mean *= fixed_point.unit
        return mean

    def contributions(self, current: Weights, fixed_point: FixedPoint) -> list[Contribution]:
        """One: the weights that the mean change leads to, as FedAvg's mean of weights."""
        mean = self.mean(fixed_point)
        mean += current
        return [(mean, 1)]


def _add(total: npt.NDArray[np.int64], units: npt.NDArray[Any], weight: int) -> None:
    for start in range(0, units.size, _CHUNK):  # so that no second vector is formed
        piece = slice(start, start + _CHUNK)
        total[piece] += units[piece].astype(np.int64) * np.int64(weight)


class Gathered:
    """Every reply of a round, for strategies that need them all.

    Args:
        weights: whole number by which each site counts at most.
        share: the largest that one site may have of their sum.
    """

    def __init__(self, weights: Mapping[str, int], share: Fraction = WHOLE) -> None:
        self._weights = dict(weights)
        self._share = share
        self._units: dict[str, Integers] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites whose units are kept, by name."""
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
        weights = capped({site: self._weights[site] for site in self.sites}, self._share)
        return [
            (fixed_point.decode(self._units[site]) + current, weights[site]) for site in self.sites
        ]


Fold = WeightedSum | Gathered


def begin(
    settings: AggregationSettings,
    length: int,
    weights: Mapping[str, int],
    *,
    every_reply: bool | None = None,
) -> Fold:
    """An empty fold of one round's updates, of the kind that the strategy needs.

    Args:
        settings: of the study.
        length: of each update.
        weights: whole number by which each site counts at most.
        every_reply: whether each site's update is needed by itself; None as the strategy says.
    """
    share = share_of(settings.max_share)
    if settings.options.every_reply if every_reply is None else every_reply:
        return Gathered(weights, share)
    return WeightedSum(length, weights, share)
