"""Labels over sites by Dirichlet draws: how far hospitals differ in what they see.

Each class is divided over the sites in proportions drawn from a symmetric Dirichlet
distribution with concentration alpha (Yurochkin et al. 2019, arXiv:1905.12022, section 4;
the federated form of Hsu et al. 2019, arXiv:1909.06335, section 3.1): a small alpha gives
each site few of some classes, a large one divides evenly. A draw that leaves a site too
small is rejected; the next draw of the same generator follows, and rejections are counted.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.errors import DataError
from simulations.partitions.partition import Partition, Partitioning, Subjects

Counts = NDArray[np.int64]

MOST_DRAWS: Final = 1000
ALPHAS: Final = (1e-3, 1e6)
"""Below, each class goes to one site whatever is drawn; above, all sites are alike."""


@dataclass(frozen=True)
class Floor:
    """The least that every site gets: patients in all, and of each class."""

    patients: int = 100
    per_class: int = 10


class Dirichlet(Partitioning):
    """Each class is divided in proportions of its own.

    Attributes:
        alpha: concentration: small for hospitals that differ, large for hospitals that are alike.
        patients: the least that every site gets.
        per_class: the least of each class that every site gets.
    """

    kind: ClassVar[str] = "dirichlet"

    alpha: float = Field(default=0.5, ge=ALPHAS[0], le=ALPHAS[1])
    patients: int = Field(default=100, ge=1)
    per_class: int = Field(default=10, ge=0)

    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """See :meth:`Partitioning.divide`."""
        floor = Floor(self.patients, self.per_class)
        return dirichlet_partition(subjects.labels, sites, self.alpha, rng, floor)


def dirichlet_partition(
    labels: NDArray[np.integer],
    sites: int,
    alpha: float,
    rng: np.random.Generator,
    floor: Floor = Floor(),
) -> Partition:
    """Divide patients over sites.

    Args:
        labels: ``(patients,)``, the class of each.
        sites: how many.
        alpha: concentration, within :data:`ALPHAS`.
        rng: the generator; a redraw is its next draw.
        floor: the least that every site gets.

    Raises:
        DataError: there are too few patients, or no draw in :data:`MOST_DRAWS` leaves
            every site enough; the message says what works with this generator.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    _require_possible(sizes, sites, alpha, floor)
    before = deepcopy(rng)
    found = _search(sizes, sites, alpha, rng, floor)
    if found is None:
        raise _hopeless(sizes, sites, alpha, before, floor)
    counts, redraws = found
    members = [np.flatnonzero(labels == each) for each in classes]
    return Partition(_deal(members, counts, rng), redraws)


def _search(
    sizes: Counts, sites: int, alpha: float, rng: np.random.Generator, floor: Floor
) -> tuple[Counts, int] | None:
    """The first draw that leaves every site enough, and how many came before it."""
    for redraws in range(MOST_DRAWS):
        counts = draw_counts(sizes, sites, alpha, rng)
        if _enough(counts, floor):
            return counts, redraws
    return None


def draw_counts(sizes: Counts, sites: int, alpha: float, rng: np.random.Generator) -> Counts:
    """How many of each class each site gets: int64 ``(classes, sites)``, rows sum to ``sizes``."""
    shares = rng.dirichlet(np.full(sites, alpha), size=len(sizes))
    # Rounded after summing up: counts rounded one by one would not add up to the class.
    cuts = np.floor(np.cumsum(shares, axis=1)[:, :-1] * sizes[:, None] + 0.5).astype(np.int64)
    edges = np.concatenate(
        [np.zeros((len(sizes), 1), np.int64), np.minimum(cuts, sizes[:, None]), sizes[:, None]],
        axis=1,
    )
    return np.diff(edges, axis=1)


def _deal(
    members: list[NDArray[np.int64]], counts: Counts, rng: np.random.Generator
) -> tuple[NDArray[np.int64], ...]:
    hands: list[list[NDArray[np.int64]]] = [[] for _ in range(counts.shape[1])]
    for group, row in zip(members, counts, strict=True):
        # Mixed first: a file may be sorted by source or severity within a class.
        parts = np.split(rng.permutation(group), np.cumsum(row)[:-1])
        for hand, part in zip(hands, parts, strict=True):
            hand.append(part)
    return tuple(np.sort(np.concatenate(hand)) for hand in hands)


def _enough(counts: Counts, floor: Floor) -> bool:
    return bool((counts.sum(axis=0) >= floor.patients).all() and (counts >= floor.per_class).all())


def _require_possible(sizes: Counts, sites: int, alpha: float, floor: Floor) -> None:
    if sites < 1 or not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise DataError(
            "patients cannot be divided with these numbers",
            where="--sites, --alpha",
            found=f"{sites} sites, alpha {alpha:g}",
            wanted=f"at least one site, and an alpha of {ALPHAS[0]:g} to {ALPHAS[1]:g}",
            remedy="use --alpha 0.5 for hospitals that differ, 100 for hospitals that are alike",
        )
    most = int(min(sizes.sum() // floor.patients, sizes.min() // max(1, floor.per_class)))
    if sites > most:
        raise DataError(
            "there are too few patients for this number of hospitals",
            where="--sites",
            found=f"{sites} sites, {int(sizes.sum())} patients, {int(sizes.min())} in the "
            "smallest class",
            wanted=f"at least {floor.patients} patients a site and {floor.per_class} of each class",
            remedy=f"use at most {most} sites" if most else "use a larger file",
        )


def _hopeless(
    sizes: Counts, sites: int, alpha: float, before: np.random.Generator, floor: Floor
) -> DataError:
    """The error after too many redraws; what it advises was tried from the same seed."""

    def works(sites: int, alpha: float) -> bool:
        return _search(sizes, sites, alpha, deepcopy(before), floor) is not None

    # Rounded as it is printed: what is typed is what was tried.
    doubled = [float(f"{alpha * 2**times:.3g}") for times in range(1, 31)]
    larger = next((each for each in doubled if each <= ALPHAS[1] and works(sites, each)), None)
    fewer = next((each for each in range(sites - 1, 1, -1) if works(each, alpha)), None)
    advice = [f"--alpha {larger:g}"] if larger else []
    advice += [f"--sites {fewer}"] if fewer else []
    return DataError(
        f"none of {MOST_DRAWS} random divisions gives every hospital enough patients",
        where="--sites, --alpha",
        found=f"{sites} sites, alpha {alpha:g}",
        wanted=f"at least {floor.patients} patients a site and {floor.per_class} of each class",
        remedy=f"use {', or '.join(advice)}: that works with this --seed, and may not with another"
        if advice
        else "use a larger file",
    )
