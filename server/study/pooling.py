"""The figures of an evaluation, and whether they depend on a single site.

Counts are added as whole numbers, negative cells included: clipping a noisy count before
pooling would bias the sum. Then every figure is computed again without each site in turn, only
from what was released, which costs no privacy. A dishonest site can keep within every bound on
its numbers and still move a figure. So a figure that one site moves, or that rests on one site,
is marked as not meaningful (leave-one-out, as in Quenouille 1956).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.figures import release
from common.figures.figures import Figures, Place
from common.figures.intervals import Estimate, absent
from common.tasks.task import Task

# docs/coordinator.md names this number: change both.
MOVED: Final = 0.1
"""How far one site may move a figure that still counts as all sites' figure, of its range."""
MOST_OF_IT: Final = 0.5
"""The share of the counted patients above which a site is most of the evidence."""


@dataclass(frozen=True)
class SiteCounts:
    """What one site released.

    Attributes:
        counts: with noise, int64 of the shape that the task releases.
        noise: standard deviation of a cell before rounding, from its plan.
    """

    counts: npt.NDArray[np.int64]
    noise: float


@dataclass(frozen=True)
class Pooled:
    """All sites' releases together.

    Attributes:
        counts: their sum, int64.
        variance: of the noise in each of its cells.
        figures: read from it; those that one site decides say so.
    """

    counts: npt.NDArray[np.int64]
    variance: float
    figures: Figures


def pool(releases: Mapping[str, SiteCounts], task: Task, bins: int) -> Pooled:
    """Add up what sites released, read the figures, and hold each against every site.

    Args:
        releases: by site; at least one.
        task: of the study.
        bins: of its evaluations.
    """
    whole, shares = _sum(releases, task), _shares(releases, task, bins)
    rest = {
        site: _sum(_all_but(site, releases), task).figures.places
        for site in releases
        if len(releases) > 1
    }

    def judged(place: Place, estimate: Estimate) -> Estimate:
        others = {site: found[place] for site, found in rest.items()}
        return _judged(estimate, others, shares, MOVED * task.span(place[0]))

    return replace(whole, figures=whole.figures.changed(judged))


def nothing(task: Task, bins: int, why: str) -> Pooled:
    """What is known where too few sites sent something that could be counted.

    Args:
        task: of the study.
        bins: of its evaluations.
        why: there are no figures, in plain words.
    """
    counts = np.zeros(task.release(bins).shape, dtype=np.int64)
    empty = task.figures(counts, noise_variance=0.0)
    figures = replace(empty.changed(lambda *_: absent(why)), patients=absent(why))
    return Pooled(counts, 0.0, figures)


def shown(figures: Figures, task: Task) -> dict[str, Any]:
    """The figures as an event tells them, with their names in words and what to doubt."""
    told = asdict(figures)
    del told["series"]  # of exact figures alone
    names = [each for each in task.names.items() if each[0] in figures.values]
    doubts = list(task.doubts(figures))
    return told | {"headline": task.headline, "names": names, "doubts": doubts}


def _all_but(site: str, releases: Mapping[str, SiteCounts]) -> dict[str, SiteCounts]:
    return {name: release for name, release in releases.items() if name != site}


def _sum(releases: Mapping[str, SiteCounts], task: Task) -> Pooled:
    counts = release.pool(each.counts for each in releases.values())
    variance = release.pooled_variance(each.noise for each in releases.values())
    figures = task.figures(counts, noise_variance=variance)
    return Pooled(counts, variance, figures)


def _shares(releases: Mapping[str, SiteCounts], task: Task, bins: int) -> dict[str, float]:
    """Each site's share of the patients that were counted, in the group where it is largest."""
    of_class = {site: task.groups(each.counts, bins) for site, each in releases.items()}
    # Noise can make a sum zero or negative; below one patient there is nothing to share.
    whole = np.maximum(sum(of_class.values()), 1.0)
    return {site: float((mine / whole).max()) for site, mine in of_class.items()}


def _judged(
    whole: Estimate, without: Mapping[str, Estimate], shares: Mapping[str, float], most: float
) -> Estimate:
    """The figure; one that a single site decides is not meaningful, and says which site.

    Args:
        whole: the figure of all sites.
        without: by site, the figure of all others.
        shares: by site, its share of the patients.
        most: how far one site may move the figure.
    """
    if not whole.meaningful or whole.value is None:
        return whole
    if not without:
        return _of_one(whole, f"only {', '.join(shares)} was counted; no other site confirms it")
    for site in sorted(without):
        rest = without[site]
        if shares[site] > MOST_OF_IT and not rest.meaningful:
            return _of_one(whole, f"it rests on {site} alone: without {site}, {rest.why}")
    moved = {site: _distance(whole.value, rest) for site, rest in without.items()}
    first = max(moved, key=lambda site: (moved[site], site))
    if moved[first] > most:
        rest = without[first]
        return _of_one(
            whole,
            f"{first} alone decides it: without {first} it is {rest.value:.3f} "
            f"({rest.low:.3f} to {rest.high:.3f})",
        )
    return whole


def _distance(value: float, rest: Estimate) -> float:
    """How far a figure is from that of the rest, where the difference is more than chance.

    An interval so wide that the rest has no figure is no excuse: every value lies in it.
    """
    if rest.value is None or (rest.meaningful and rest.low <= value <= rest.high):
        return 0.0
    return abs(value - rest.value)


def _of_one(estimate: Estimate, why: str) -> Estimate:
    return replace(estimate, meaningful=False, why=why)
