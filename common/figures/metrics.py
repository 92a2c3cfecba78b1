"""The figures of a study, with intervals: from the sites' pooled histogram, or from scores.

:func:`evaluate` reads every figure from the sum of the noisy releases of all sites
(:mod:`common.figures.histogram`), so that it is the figure of all patients together and not a
mean of sites' means. :func:`exact` computes the same figures from the scores themselves, where
these may be seen: a simulation's test set, kept apart. Both share every formula but those that bins
make approximate.

The histogram is never clipped. Figures, and the counts inside a ratio, are clipped to their
range at the very end, when they are no longer added to anything. Where noise or a lack of
patients leaves a figure without meaning, its :class:`~common.figures.intervals.Estimate` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.figures import confusion
from common.figures.auc import area_under_roc, by_score, roc_points
from common.figures.calibration import (
    calibration_error,
    exact_calibration_error,
    exact_calibration_points,
)
from common.figures.figures import Figures, Series
from common.figures.histogram import (
    histogram,
    one_vs_rest,
    plane_scores,
    planes,
    release_shape,
)
from common.figures.intervals import Estimate, absent, counted, mean, share

ROC_POINTS: Final = 200
"""At most this many points of a curve are kept for drawing."""


def evaluate(
    counts: NDArray[np.integer], *, noise_variance: float, classes: Sequence[str]
) -> Figures:
    """Every figure from the pooled histogram.

    With two classes sensitivity, specificity, precision, F1 and AUC are those of class 1; with
    more, the plain mean over classes of each against the rest, and the score of class k is
    ``p_k / (p_k + max of the others)``. Balanced accuracy is the mean over classes of the share
    named rightly; calibration error is for two classes only. Of each class there are its area
    against the rest, its recall and its share of the patients; the table ``confusion`` counts by
    (true class, named class).

    Args:
        counts: (classes, planes, bins), the sum of the sites' releases, never clipped.
        noise_variance: variance of the noise in each cell of the sum, in counts squared;
            0 if the sites released exact counts.
        classes: the study's classes; the second of two is the positive one.

    Raises:
        ValueError: the histogram's shape is not that of a release, or the variance is negative.
    """
    if counts.shape != release_shape(len(classes), counts.shape[-1]):
        raise ValueError(f"{counts.shape} is not the shape of {len(classes)} classes' histograms")
    if not noise_variance >= 0.0:
        raise ValueError(f"a noise variance is at least 0, not {noise_variance}")
    auc_of = _of_each(classes, partial(_binned_auc, counts, noise_variance))
    error = _no_calibration_error(len(classes)) or calibration_error(
        counts[1, 0], counts[0, 0], noise_variance=noise_variance
    )
    return _metrics(counts, noise_variance, classes, auc_of, error)


def exact(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, classes: Sequence[str]
) -> Figures:
    """The same figures from the patients' scores, without bins and without noise.

    Args:
        scores: (patients, classes) mean class probabilities of each patient. Sensitive, unless
            the patients are a simulation's.
        labels: (patients,) true class in ``[0, classes)``.
        classes: the study's classes; the second of two is the positive one.

    Raises:
        ValueError: shapes or labels that do not fit.
    """
    # Two bins, below and above one half, hold the confusion counts exactly.
    named = histogram(scores, labels, classes=len(classes), bins=2)
    counted = plane_scores(scores)
    auc_of = _of_each(classes, partial(_exact_auc, counted, labels))
    error = _no_calibration_error(len(classes)) or exact_calibration_error(counted[:, 0], labels)
    found = _metrics(named, 0.0, classes, auc_of, error)
    series = {"roc": _roc(counted, labels, classes)}
    if len(classes) == 2:
        series["calibration"] = (_reliability(counted[:, 0], labels, classes[1]),)
    return replace(found, series=series)


def _roc(
    counted: NDArray[np.float64], labels: NDArray[np.integer], classes: Sequence[str]
) -> tuple[Series, ...]:
    """The positive class's curve for two classes; for more, each against the rest."""
    positives = {1: 0} if len(classes) == 2 else {k: k for k in range(len(classes))}
    return tuple(
        Series(classes[k], _thinned(counted[:, plane], labels == k))
        for k, plane in positives.items()
    )


def _thinned(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[tuple[float, float], ...]:
    """A ROC curve at no more points than a picture can show."""
    false, true = roc_points(*by_score(scores, positive))
    kept = np.unique(np.linspace(0, len(false) - 1, min(len(false), ROC_POINTS)).astype(int))
    return tuple((float(false[i]), float(true[i])) for i in kept)


def _reliability(scores: NDArray[np.float64], labels: NDArray[np.integer], positive: str) -> Series:
    """How often the positive class came true at each score."""
    points = exact_calibration_points(scores, labels)
    return Series(
        positive,
        tuple((each.score, each.rate.value or 0.0) for each in points),
        tuple((each.rate.low, each.rate.high) for each in points),
    )


def _of_each(classes: Sequence[str], area: Callable[[int, str], Estimate]) -> tuple[Estimate, ...]:
    """Each class's area against the rest; that of either of two classes is the same."""
    if len(classes) == 2:
        return (area(1, f"patients of class {classes[1]}"),) * 2
    return tuple(area(k, f"patients of class {name}") for k, name in enumerate(classes))


def _binned_auc(
    counts: NDArray[np.integer], noise_variance: float, positive: int, of: str
) -> Estimate:
    positives, negatives = one_vs_rest(counts, positive)
    noise = (noise_variance, noise_variance * (len(counts) - 1))
    return area_under_roc(positives, negatives, noise=noise, binned=True, of=of)


def _exact_auc(
    counted: NDArray[np.float64], labels: NDArray[np.integer], positive: int, of: str
) -> Estimate:
    """The area with a cell for each distinct score."""
    score = counted[:, 0] if counted.shape[1] == 1 else counted[:, positive]
    return area_under_roc(*by_score(score, labels == positive), binned=False, of=of)


def _no_calibration_error(classes: int) -> Estimate | None:
    if planes(classes) == 1:
        return None
    return absent("with more than two classes, scores are margins and cannot be calibrated")


def _metrics(
    counts: NDArray[np.integer],
    noise_variance: float,
    classes: Sequence[str],
    auc_of: tuple[Estimate, ...],
    error: Estimate,
) -> Figures:
    tables = confusion.tables(counts, noise_variance, classes)
    recalls = tuple(confusion.recall(table) for table in tables)
    recall = mean(recalls, independent=True)
    return Figures(
        patients=_patients(counts, noise_variance),
        values={
            "auc": _overall(auc_of),
            "accuracy": confusion.accuracy(tables),
            "balanced_accuracy": recall,
            "sensitivity": recalls[1] if len(classes) == 2 else recall,
            "specificity": _overall([confusion.specificity(table) for table in tables]),
            "precision": _overall([confusion.precision(table) for table in tables]),
            "f1": _overall([confusion.f1(table) for table in tables]),
            "calibration_error": error,
        },
        of={
            "auc": auc_of,
            "sensitivity": recalls,
            "prevalence": _prevalence(counts, noise_variance),
        },
        tables={"confusion": confusion.matrix(counts)},
        noise_variance=float(noise_variance),
    )


def _overall(of_class: Sequence[Estimate]) -> Estimate:
    """Class 1's figure of two classes; else the mean over classes, whose patients overlap."""
    return of_class[1] if len(of_class) == 2 else mean(of_class, independent=False)


def _totals(
    counts: NDArray[np.integer], noise_variance: float
) -> tuple[NDArray[np.float64], float]:
    """Patients of each class, the mean of what its planes say, and their noise variance."""
    # Each plane counts every patient once, so each gives the same number, with noise of its own.
    totals = counts.sum(axis=2).mean(axis=1)
    return totals, noise_variance * counts.shape[2] / counts.shape[1]


def _prevalence(counts: NDArray[np.integer], noise_variance: float) -> tuple[Estimate, ...]:
    totals, noise = _totals(counts, noise_variance)
    everyone = float(totals.sum())
    others = noise * (len(totals) - 1)
    return tuple(
        share(float(t), everyone - float(t), noise=(noise, others), of="patients") for t in totals
    )


def _patients(counts: NDArray[np.integer], noise_variance: float) -> Estimate:
    """The number of patients counted, give or take the noise alone."""
    totals, noise = _totals(counts, noise_variance)
    return counted(float(totals.sum()), noise * len(totals))
