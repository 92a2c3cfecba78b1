"""Figures of right and wrong answers, read from either side of 0.5 in the pooled histogram.

The model names class k where the score of k reaches 0.5, so the cells above and below that
edge are the confusion counts. Each is a sum of cells whose noise is known, no two share a
cell, and every figure is a ratio of them: :func:`common.figures.intervals.share`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.figures.histogram import one_vs_rest
from common.figures.intervals import Estimate, share


@dataclass(frozen=True)
class Table:
    """One class against the rest; counts may be negative through noise.

    Attributes:
        name: the class.
        tp: patients of the class who are named so.
        fn: patients of the class who are not.
        fp: others who are named so.
        tn: others who are not.
        noise: noise variance of ``tp`` and of ``fn``.
        noise_of_others: noise variance of ``fp`` and of ``tn``.
    """

    name: str
    tp: float
    fn: float
    fp: float
    tn: float
    noise: float
    noise_of_others: float


def matrix(counts: NDArray[np.integer]) -> tuple[tuple[int, ...], ...]:
    """Counts by (true class, named class), as read: negative ones are noise.

    Args:
        counts: (classes, planes, bins) pooled histogram.
    """
    middle = counts.shape[2] // 2
    named = counts[:, :, middle:].sum(axis=2)
    if counts.shape[1] == 1:
        named = np.concatenate([counts[:, :, :middle].sum(axis=2), named], axis=1)
    return tuple(tuple(int(cell) for cell in row) for row in named)


def tables(
    counts: NDArray[np.integer], noise_variance: float, classes: Sequence[str]
) -> tuple[Table, ...]:
    """Each class against the rest.

    Args:
        counts: (classes, planes, bins) pooled histogram.
        noise_variance: variance of the noise in each of its cells.
        classes: their names.
    """
    # A count adds up half of the cells of a row, each with the noise of its own.
    noise = noise_variance * counts.shape[2] / 2
    read = []
    for k, name in enumerate(classes):
        positives, negatives = one_vs_rest(counts, k)
        (fn, tp), (tn, fp) = _halves(positives), _halves(negatives)
        read.append(Table(name, tp, fn, fp, tn, noise, noise * (len(classes) - 1)))
    return tuple(read)


def _halves(cells: NDArray[np.int64]) -> tuple[float, float]:
    middle = len(cells) // 2
    return float(cells[:middle].sum()), float(cells[middle:].sum())


def accuracy(tables: Sequence[Table]) -> Estimate:
    """The share of all patients whose class the model names."""
    right, wrong = sum(table.tp for table in tables), sum(table.fn for table in tables)
    noise = sum(table.noise for table in tables)
    return share(right, wrong, noise=(noise, noise), of="patients")


def recall(table: Table) -> Estimate:
    """The share of a class's patients who are named so; sensitivity."""
    noise = (table.noise, table.noise)
    return share(table.tp, table.fn, noise=noise, of=f"patients of class {table.name}")


def specificity(table: Table) -> Estimate:
    """The share of the others who are not named so."""
    noise = (table.noise_of_others, table.noise_of_others)
    return share(table.tn, table.fp, noise=noise, of=f"patients not of class {table.name}")


def precision(table: Table) -> Estimate:
    """The share of those named so who are of the class."""
    noise = (table.noise, table.noise_of_others)
    return share(table.tp, table.fp, noise=noise, of=f"patients named {table.name}")


def f1(table: Table) -> Estimate:
    """The harmonic mean of precision and recall.

    It is ``2 J / (1 + J)``, with J the true positives' share of all but the true negatives.
    """
    noise = (table.noise, table.noise + table.noise_of_others)
    of = f"patients of class {table.name} or named so"
    return share(table.tp, table.fp + table.fn, noise=noise, of=of, scale=_f1_of_jaccard)


def _f1_of_jaccard(jaccard: float) -> float:
    return 2.0 * jaccard / (1.0 + jaccard)
