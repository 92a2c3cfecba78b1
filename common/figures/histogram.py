"""What a site releases about its patients' scores: one small histogram per class.

A patient has one vote: the mean of the model's class probabilities over the patient's
images. The votes of the patients of one true class are counted in ``planes`` histograms of
``bins`` equal bins on [0, 1]; nothing else about them leaves a site. With two classes there
is one plane, of the probability of class 1. With more there is a plane per class k, of the
score ``p_k / (p_k + max of the others)``, which reaches 0.5 exactly where k is the class that
the model names: the edge at 0.5 lets the confusion counts, and accuracy with them, be read
from the same histogram.

One patient marks one bin of each plane (:mod:`common.figures.release`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A class that is not named stays below the edge at one half, whatever a division rounds to.
_BELOW_HALF = float(np.nextafter(0.5, 0.0))


def planes(classes: int) -> int:
    """How many histograms each true class has: 1 for two classes, else one per class.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"a classification has at least 2 classes, not {classes}")
    return 1 if classes == 2 else classes


def release_shape(classes: int, bins: int) -> tuple[int, int, int]:
    """The shape of a release: (true class, plane, bin).

    Raises:
        ValueError: fewer than two classes, or a number of bins that is odd or below 2.
    """
    if bins < 2 or bins % 2:
        raise ValueError(f"bins must be even and at least 2, so that 0.5 is an edge, not {bins}")
    return classes, planes(classes), bins


def plane_scores(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """The scores that are counted, one column for each plane. Sensitive.

    A tie between the two classes of a binary study goes to class 1; one between more classes
    goes to the first. A patient whose vote is not finite, or is all zero, counts as one of
    whom the model knows nothing: an equal probability for each class. Such a patient is not
    left out, because figures would look better for the patients on whom the model fails.

    Args:
        scores: (patients, classes), the patients' mean class probabilities.

    Returns:
        (patients, planes) float64 in [0, 1].

    Raises:
        ValueError: ``scores`` is not a matrix of at least two columns.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores are (patients, classes), not of shape {scores.shape}")
    known = np.clip(scores.astype(np.float64), 0.0, 1.0)
    unknown = ~np.isfinite(scores).all(axis=1) | (known.sum(axis=1) <= 0.0)
    known[unknown] = 1.0 / scores.shape[1]
    return known[:, 1:] if planes(scores.shape[1]) == 1 else _margins(known)


def _margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """``p_k / (p_k + max of the others)``, at least 0.5 for the named class alone."""
    named = probabilities.argmax(axis=1)
    rivals = np.empty_like(probabilities)
    for k in range(probabilities.shape[1]):
        rivals[:, k] = np.delete(probabilities, k, axis=1).max(axis=1)
    both = probabilities + rivals
    ratio = np.divide(probabilities, both, out=np.zeros_like(both), where=both > 0.0)
    is_named = np.arange(probabilities.shape[1]) == named[:, None]
    return np.where(is_named, np.maximum(ratio, 0.5), np.minimum(ratio, _BELOW_HALF))


def histogram(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, classes: int, bins: int
) -> NDArray[np.int64]:
    """Count the patients' scores by true class, plane and bin. Sensitive until noised.

    A score on an edge belongs to the bin above it; 1.0 belongs to the last bin.

    Args:
        scores: (patients, classes), the patients' mean class probabilities.
        labels: (patients,), the true class in ``[0, classes)``.
        classes: number of classes.
        bins: number of equal bins on [0, 1]; even.

    Returns:
        (classes, planes, bins) int64.

    Raises:
        ValueError: shapes, labels, classes or bins that do not fit together.
    """
    counts = np.zeros(release_shape(classes, bins), dtype=np.int64)
    _check_labels(scores, labels, classes)
    for cell in cells(scores, labels, bins).transpose(1, 0, 2):
        np.add.at(counts, tuple(cell.T), 1)
    return counts


def cells(
    scores: NDArray[np.floating], labels: NDArray[np.integer], bins: int
) -> NDArray[np.int64]:
    """The cell that each patient marks in each plane: true class, plane, bin. Sensitive.

    Args:
        scores: as for :func:`histogram`.
        labels: as there.
        bins: as there.

    Returns:
        (patients, planes, 3) int64.
    """
    edges = np.arange(1, bins) / bins
    # "right": 0.5 itself belongs above the edge, where the class is named.
    bin_of = np.searchsorted(edges, plane_scores(scores), side="right")
    true, plane = np.broadcast_arrays(labels[:, None], np.arange(bin_of.shape[1])[None, :])
    return np.stack([true, plane, bin_of], axis=2).astype(np.int64)


def _check_labels(scores: NDArray[np.floating], labels: NDArray[np.integer], classes: int) -> None:
    """The labels name the scores' classes, one for each patient."""
    if scores.shape != (len(labels), classes):
        raise ValueError(f"scores of shape {scores.shape} do not fit {classes} classes and labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"a label lies outside the {classes} classes")


def one_vs_rest(
    counts: NDArray[np.integer], positive: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One class's counts and those of all others, by increasing score of that class.

    Args:
        counts: (classes, planes, bins) pooled histogram.
        positive: the class.

    Returns:
        Positives and negatives, each (bins,) int64. The noise in a negatives' cell is that of
        ``classes - 1`` cells.
    """
    if counts.shape[1] == 1:
        # Of two classes the other's score is 1 - p: the same bins, from the other end.
        plane = counts[:, 0] if positive == 1 else counts[:, 0, ::-1]
    else:
        plane = counts[:, positive]
    others = np.delete(plane, positive, axis=0).sum(axis=0)
    return plane[positive].astype(np.int64), others.astype(np.int64)
