"""What an evaluation may send: counts of marks, of which one patient has a bounded number.

A task says which cells of an array one patient marks. Whatever it says, :func:`tally` counts at
most one mark of a patient in each place of the axes that are not :attr:`Release.once`, so adding
or removing a patient moves the counts by at most :attr:`Release.bound` in L2 norm: that is
enforced here, not believed. Noise is added elsewhere; noisy counts may be negative, and pooling
adds them as they are: clipping first would bias every figure upwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_COUNT: Final = 2**40
"""The largest magnitude of a released cell: above any site's patients and noise, and far
below where the sum over all sites could overflow 64 bits."""

ROUNDING_VARIANCE: Final = 1.0 / 12.0
"""Variance that rounding to integers adds to a noisy cell, in counts squared."""


@dataclass(frozen=True)
class Release:
    """The counts that a site sends after an evaluation; follows from the study alone.

    Attributes:
        shape: of the counts.
        once: ascending axes over which a patient has at most one mark, in each place of the
            others.
    """

    shape: tuple[int, ...]
    once: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """Sizes of the other axes: in each of their places a patient has at most one mark."""
        return tuple(size for axis, size in enumerate(self.shape) if axis not in self.once)

    @property
    def votes(self) -> int:
        """Marks of one patient, at most."""
        return math.prod(self.places)

    @property
    def bound(self) -> float:
        """L2 distance between the counts of a cohort with and without one patient, at most."""
        return math.sqrt(self.votes)

    @property
    def size(self) -> int:
        """Numbers that are sent."""
        return math.prod(self.shape)


def tally(marks: Iterable[NDArray[np.int64]], release: Release) -> NDArray[np.int64]:
    """Count what each patient marks. Sensitive until noised.

    Args:
        marks: of each patient, the cells: (marks, axes) whole numbers, sensitive. A mark outside
            the shape does not count; of several in one place the first does.
        release: of the study.

    Returns:
        int64, of the release's shape.
    """
    counts = np.zeros(release.shape, dtype=np.int64)
    for mine in marks:
        for cell in _kept(mine, release):
            counts[cell] += 1
    return counts


def _kept(marks: NDArray[np.int64], release: Release) -> Iterable[tuple[int, ...]]:
    """The marks of one patient that count."""
    cells = np.asarray(marks)
    if cells.ndim != 2 or cells.shape[1] != len(release.shape) or cells.dtype.kind not in "iu":
        return ()  # one patient's failure makes that patient zero
    inside = ((cells >= 0) & (cells < release.shape)).all(axis=1)
    first: dict[tuple[int, ...], tuple[int, ...]] = {}
    for cell in map(tuple, cells[inside].tolist()):
        place = tuple(at for axis, at in enumerate(cell) if axis not in release.once)
        first.setdefault(place, cell)
    return first.values()


def pool(releases: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The sum of the sites' releases, negative cells included; order does not matter.

    Raises:
        ValueError: there is no release, or their shapes differ.
    """
    total: NDArray[np.int64] | None = None
    for release in releases:
        if total is not None and release.shape != total.shape:
            raise ValueError(f"releases of shapes {total.shape} and {release.shape} do not add up")
        total = release.astype(np.int64) if total is None else total + release
    if total is None:
        raise ValueError("there is no release to pool")
    return total


def pooled_variance(sigmas: Iterable[float]) -> float:
    """Variance of the noise in one cell of the pooled counts, in counts squared.

    Args:
        sigmas: each site's noise standard deviation per cell, before rounding to integers;
            0 for a site that releases its exact counts.
    """
    return sum(sigma**2 + ROUNDING_VARIANCE for sigma in sigmas if sigma > 0.0)
