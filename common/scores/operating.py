"""Thresholds of a score and what they give, from the histograms that were released.

Between two edges of a histogram nothing is known, so a threshold is one of its inner edges: a
patient whose score reaches it is named positive. Three rules choose among the edges: a sensitivity
that is to be reached, the index of Youden (1950), ``sensitivity + specificity - 1``, and the
smallest expected cost (Metz 1978). The edge at one half is always there: it is where the model
itself decides.

A rule looks at all edges and takes the one that looks best, by luck in part. The interval of one
edge that was fixed in advance would then hold the exact share too seldom. So the intervals hold at
all edges together (Bonferroni): each of the ``bins - 1`` has an error of 5 % over ``bins - 1``, so
that of the chosen one is 5 % at most, whatever the rule. This is so for the sensitivity and for the
specificity, each by itself. One half was not chosen, and keeps the interval of a single edge.

Thresholds are for the scores that were counted, not for scaled ones
(:mod:`common.scores.scaling`). Reading a release costs no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from common.figures.histogram import one_vs_rest, release_shape
from common.figures.intervals import Estimate, Z, share

HALF: Final = "one half"
YOUDEN: Final = "Youden's index"
COST: Final = "smallest cost"
SENSITIVITIES: Final = (0.95, 0.9)
"""What a screening test is often asked to reach."""
_ERROR: Final = 0.05


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it gives. Public once released.

    Attributes:
        name: the rule that chose it.
        positive: the class that a score at or above the threshold names.
        threshold: an edge of the histogram, in (0, 1).
        sensitivity: share of the class's patients at or above it.
        specificity: share of all others below it.
    """

    name: str
    positive: int
    threshold: float
    sensitivity: Estimate
    specificity: Estimate

    @property
    def meaningful(self) -> bool:
        """Whether both shares are known well enough, and it is shown to be better than chance."""
        shown = self.sensitivity.low + self.specificity.low > 1.0
        return self.sensitivity.meaningful and self.specificity.meaningful and shown


def points(
    counts: NDArray[np.integer],
    *,
    noise_variance: float,
    positive: int = 1,
    sensitivities: Iterable[float] = SENSITIVITIES,
    cost_ratio: float | None = None,
    prevalence: float | None = None,
) -> tuple[OperatingPoint, ...]:
    """One half, then the points that the rules choose; a rule that finds none is left out.

    With more than two classes a score is ``p_k / (p_k + max of the others)``.

    Args:
        counts: (classes, planes, bins) pooled histogram, never clipped.
        noise_variance: variance of the noise in each of its cells.
        positive: the class that is told from all others.
        sensitivities: each is to be reached.
        cost_ratio: the cost of a positive patient who is missed, over that of another who is named
            positive. Without it there is no point of smallest cost.
        prevalence: share of positives among those whom the threshold is for; needed with a ratio.

    Raises:
        ValueError: the histogram's shape is not that of a release, there is no such class, or a
            sensitivity, ratio or prevalence is outside its range.
    """
    edges = at_edges(counts, noise_variance=noise_variance, positive=positive)
    found = [half(counts, noise_variance=noise_variance, positive=positive), youden(edges)]
    found += [at_least(edges, wanted) for wanted in sensitivities]
    if cost_ratio is not None:
        if prevalence is None:
            raise ValueError("a cost is weighed with a prevalence, and there is none")
        found.append(cheapest(edges, cost_ratio=cost_ratio, prevalence=prevalence))
    return tuple(point for point in found if point is not None)


def used(chosen: Sequence[OperatingPoint]) -> OperatingPoint:
    """The point that decides present or absent: Youden's if it is meaningful, else one half.

    Args:
        chosen: of :func:`points`.
    """
    by_name = {point.name: point for point in chosen}
    best = by_name.get(YOUDEN)
    return best if best is not None and best.meaningful else by_name[HALF]


def half(
    counts: NDArray[np.integer], *, noise_variance: float, positive: int = 1
) -> OperatingPoint:
    """Where the model itself decides. No rule chose it, so its intervals are those of one edge.

    Args:
        counts: as for :func:`points`.
        noise_variance: as there.
        positive: as there.
    """
    _check(counts, positive)
    return _point(counts, noise_variance, positive, counts.shape[2] // 2, z=Z, name=HALF)


def at_edges(
    counts: NDArray[np.integer], *, noise_variance: float, positive: int = 1
) -> tuple[OperatingPoint, ...]:
    """Every inner edge, by increasing score, with intervals that hold at all of them together.

    Args:
        counts: as for :func:`points`.
        noise_variance: as there.
        positive: as there.
    """
    _check(counts, positive)
    bins = counts.shape[2]
    z = _simultaneous(bins - 1)
    return tuple(
        _point(counts, noise_variance, positive, edge, z=z, name="edge") for edge in range(1, bins)
    )


def _check(counts: NDArray[np.integer], positive: int) -> None:
    if counts.shape != release_shape(len(counts), counts.shape[-1]):
        raise ValueError(f"{counts.shape} is not the shape of a release")
    if not 0 <= positive < len(counts):
        raise ValueError(f"there is no class {positive} among {len(counts)}")


def _simultaneous(edges: int) -> float:
    """How many standard deviations hold at so many edges together."""
    return float(ndtri(1.0 - _ERROR / (2.0 * edges)))


def _point(
    counts: NDArray[np.integer],
    noise_variance: float,
    positive: int,
    edge: int,
    *,
    z: float,
    name: str,
) -> OperatingPoint:
    """What naming everybody in the bins from ``edge`` on gives."""
    with_it, others = one_vs_rest(counts, positive)
    # How many cells lie below and above says how much noise the counts have.
    below, above = noise_variance * edge, noise_variance * (counts.shape[2] - edge)
    rest = len(counts) - 1
    sensitivity = share(
        float(with_it[edge:].sum()),
        float(with_it[:edge].sum()),
        noise=(above, below),
        of=f"patients of class {positive}",
        z=z,
    )
    specificity = share(
        float(others[:edge].sum()),
        float(others[edge:].sum()),
        noise=(rest * below, rest * above),
        of=f"patients not of class {positive}",
        z=z,
    )
    return OperatingPoint(name, positive, edge / counts.shape[2], sensitivity, specificity)


def at_least(edges: Sequence[OperatingPoint], wanted: float) -> OperatingPoint | None:
    """The highest edge up to which every sensitivity, as read, is at least the one wanted.

    The exact one may be lower, within its interval.

    Args:
        edges: of :func:`at_edges`.
        wanted: sensitivity, in (0, 1).

    Returns:
        None where not even the lowest edge reaches it, or its sensitivity is not meaningful.

    Raises:
        ValueError: ``wanted`` is outside (0, 1).
    """
    if not 0.0 < wanted < 1.0:
        raise ValueError(f"a sensitivity to be reached is between 0 and 1, not {wanted}")
    found = None
    # Exact sensitivities never rise with the threshold: one that does after a miss is noise.
    for point in edges:
        value = point.sensitivity.value
        if value is None or value < wanted:
            break
        found = point
    if found is None or not found.sensitivity.meaningful:
        return None
    return replace(found, name=f"sensitivity at least {wanted:g}")


def youden(edges: Sequence[OperatingPoint]) -> OperatingPoint | None:
    """The edge of the largest ``sensitivity + specificity - 1``; None where none has both."""
    return _best(YOUDEN, edges, lambda sensitivity, specificity: sensitivity + specificity)


def cheapest(
    edges: Sequence[OperatingPoint], *, cost_ratio: float, prevalence: float
) -> OperatingPoint | None:
    """The edge of the smallest expected cost of a patient; None where no edge has both shares.

    Args:
        edges: of :func:`at_edges`.
        cost_ratio: the cost of a missed positive over that of a false alarm; positive.
        prevalence: share of positives, in (0, 1).

    Raises:
        ValueError: a ratio or prevalence outside its range.
    """
    if not (0.0 < cost_ratio < np.inf and 0.0 < prevalence < 1.0):
        raise ValueError(f"no cost follows from ratio {cost_ratio} and prevalence {prevalence}")
    missed = cost_ratio * prevalence
    return _best(COST, edges, lambda hit, spared: missed * hit + (1.0 - prevalence) * spared)


def _best(
    name: str, edges: Sequence[OperatingPoint], worth: Callable[[float, float], float]
) -> OperatingPoint | None:
    """The edge of the largest worth; of equal ones, that nearest to one half."""
    best, most = None, -np.inf
    for point in sorted(edges, key=lambda each: abs(each.threshold - 0.5)):
        hit, spared = point.sensitivity.value, point.specificity.value
        if hit is None or spared is None:
            continue
        # Rounding is no advantage.
        if (value := worth(hit, spared)) > most + 1e-12:
            best, most = point, value
    return None if best is None else replace(best, name=name)
