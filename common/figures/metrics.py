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
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from common.figures import confusion
from common.figures.auc import area_under_roc, by_score
from common.figures.calibration import calibration_error, exact_calibration_error
from common.figures.histogram import (
    histogram,
    one_vs_rest,
    plane_scores,
    planes,
    release_shape,
    sensitivity,
)
from common.figures.intervals import Estimate, Z, absent, mean, share

__all__ = [
    "Estimate",
    "Metrics",
    "evaluate",
    "exact",
    "histogram",
    "one_vs_rest",
    "sensitivity",
]


@dataclass(frozen=True)
class Metrics:
    """The figures of one evaluation. Public once computed from what sites released.

    With two classes sensitivity, specificity, precision, F1 and AUC are those of class 1; with
    more, the plain mean over classes of each against the rest. Per-class figures are in the
    order of the study's classes.

    Attributes:
        patients: how many patients were counted; as read, not clipped.
        auc: area under the ROC curve. With more than two classes the score of class k is
            ``p_k / (p_k + max of the others)``.
        accuracy: share of patients whose class the model names.
        balanced_accuracy: mean over classes of the share named rightly.
        sensitivity: recall.
        specificity: share of the others that the model does not name.
        precision: share of those named that are rightly named.
        f1: harmonic mean of precision and sensitivity.
        calibration_error: expected calibration error; two classes only.
        auc_of: each class's area against the rest.
        sensitivity_of: each class's recall.
        prevalence: each class's share of the patients.
        confusion: counts by (true class, named class); negative cells are noise.
        noise_variance: variance of the noise in each cell of the histogram.
    """

    patients: Estimate
    auc: Estimate
    accuracy: Estimate
    balanced_accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    f1: Estimate
    calibration_error: Estimate
    auc_of: tuple[Estimate, ...]
    sensitivity_of: tuple[Estimate, ...]
    prevalence: tuple[Estimate, ...]
    confusion: tuple[tuple[int, ...], ...]
    noise_variance: float


def evaluate(
    counts: NDArray[np.integer], *, noise_variance: float, classes: Sequence[str]
) -> Metrics:
    """Every figure from the pooled histogram.

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
) -> Metrics:
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
    return _metrics(named, 0.0, classes, auc_of, error)


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
) -> Metrics:
    tables = confusion.tables(counts, noise_variance, classes)
    recalls = tuple(confusion.recall(table) for table in tables)
    recall = mean(recalls, independent=True)
    return Metrics(
        patients=_patients(counts, noise_variance),
        auc=_overall(auc_of),
        accuracy=confusion.accuracy(tables),
        balanced_accuracy=recall,
        sensitivity=recalls[1] if len(classes) == 2 else recall,
        specificity=_overall([confusion.specificity(table) for table in tables]),
        precision=_overall([confusion.precision(table) for table in tables]),
        f1=_overall([confusion.f1(table) for table in tables]),
        calibration_error=error,
        auc_of=auc_of,
        sensitivity_of=recalls,
        prevalence=_prevalence(counts, noise_variance),
        confusion=confusion.matrix(counts),
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
    number, reach = float(totals.sum()), Z * float(np.sqrt(noise * len(totals)))
    if number - reach <= 0.0 < reach:
        why = f"noise exceeds signal: {number:.0f} patients read through noise of ±{reach:.0f}"
        return Estimate(number, number - reach, number + reach, meaningful=False, why=why)
    return Estimate(number, number - reach, number + reach)
