"""The figures of an evaluation, and whether they depend on a single site.

Histograms are added as whole numbers, negative cells included: clipping a noisy count before
pooling would bias the sum. Then every figure is computed again without each site in turn, only
from what was released, which costs no privacy. A dishonest site can keep within every bound on
its numbers and still move a figure. So a figure that one site moves, or that rests on one site,
is marked as not meaningful (leave-one-out, as in Quenouille 1956).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.figures import histogram, metrics
from common.figures.intervals import Estimate, absent
from common.figures.metrics import Metrics

# docs/coordinator.md names this number: change both.
MOVED: Final = 0.1
"""How far one site may move a figure that still counts as all sites' figure."""
MOST_OF_IT: Final = 0.5
"""The share of the counted patients above which a site is most of the evidence."""
_OF_EACH: Final = ("auc_of", "sensitivity_of", "prevalence")
Place = tuple[str, int | None]
"""A figure by its name in :class:`Metrics`, and of which class it is, where there is one each."""


@dataclass(frozen=True)
class Release:
    """What one site released.

    Attributes:
        counts: its noisy histogram, (classes, planes, bins) int64.
        noise: standard deviation of a cell before rounding, from its plan.
    """

    counts: npt.NDArray[np.int64]
    noise: float


@dataclass(frozen=True)
class Pooled:
    """All sites' releases together.

    Attributes:
        counts: their sum, (classes, planes, bins) int64.
        variance: of the noise in each of its cells.
        figures: read from it; those that one site decides say so.
    """

    counts: npt.NDArray[np.int64]
    variance: float
    figures: Metrics


def pool(releases: Mapping[str, Release], classes: Sequence[str]) -> Pooled:
    """Add up what sites released, read the figures, and hold each against every site.

    Args:
        releases: by site; at least one.
        classes: of the study.
    """
    whole, shares = _sum(releases, classes), _shares(releases)
    rest = {
        site: _estimates(_sum(_all_but(site, releases), classes).figures)
        for site in releases
        if len(releases) > 1
    }
    judged = {
        place: _judged(estimate, {site: found[place] for site, found in rest.items()}, shares)
        for place, estimate in _estimates(whole.figures).items()
    }
    return replace(whole, figures=_with(whole.figures, judged))


def nothing(shape: tuple[int, int, int], why: str) -> Pooled:
    """What is known where too few sites sent something that could be counted.

    Args:
        shape: of a histogram, (classes, planes, bins).
        why: there are no figures, in plain words.
    """
    names = [str(number) for number in range(shape[0])]
    empty = metrics.evaluate(np.zeros(shape, dtype=np.int64), noise_variance=0.0, classes=names)
    unknown = dict.fromkeys(_estimates(empty), absent(why))
    figures = replace(_with(empty, unknown), patients=absent(why))
    return Pooled(np.zeros(shape, dtype=np.int64), 0.0, figures)


def _all_but(site: str, releases: Mapping[str, Release]) -> dict[str, Release]:
    return {name: release for name, release in releases.items() if name != site}


def _sum(releases: Mapping[str, Release], classes: Sequence[str]) -> Pooled:
    counts = histogram.pool(release.counts for release in releases.values())
    variance = histogram.pooled_variance(release.noise for release in releases.values())
    figures = metrics.evaluate(counts, noise_variance=variance, classes=classes)
    return Pooled(counts, variance, figures)


def _shares(releases: Mapping[str, Release]) -> dict[str, float]:
    """Each site's share of the patients that were counted, in the class where it is largest."""
    of_class = {site: release.counts.sum(axis=2).mean(axis=1) for site, release in releases.items()}
    # Noise can make a sum zero or negative; below one patient there is nothing to share.
    whole = np.maximum(sum(of_class.values()), 1.0)
    return {site: float((mine / whole).max()) for site, mine in of_class.items()}


def _judged(
    whole: Estimate, without: Mapping[str, Estimate], shares: Mapping[str, float]
) -> Estimate:
    """The figure; one that a single site decides is not meaningful, and says which site."""
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
    if moved[first] > MOVED:
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


def _estimates(figures: Metrics) -> dict[Place, Estimate]:
    """Every figure but the count of patients, which every site changes."""
    found: dict[Place, Estimate] = {}
    for name in (field.name for field in fields(figures)):
        value = getattr(figures, name)
        if isinstance(value, Estimate) and name != "patients":
            found[name, None] = value
        elif name in _OF_EACH:
            found |= {(name, number): each for number, each in enumerate(value)}
    return found


def _with(figures: Metrics, judged: Mapping[Place, Estimate]) -> Metrics:
    """The figures with others in their places."""
    changes: dict[str, Any] = {name: one for (name, at), one in judged.items() if at is None}
    for name in _OF_EACH:
        changes[name] = tuple(judged[name, at] for at in range(len(getattr(figures, name))))
    return replace(figures, **changes)
