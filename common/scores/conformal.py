"""Sets and intervals that hold the truth for a promised share of patients: split conformal.

A hospital calibrates on its own patients, whom the model was not trained on, with their exact
scores. The result is for use there. It follows from its patients without any noise, so it never
leaves the hospital.

- Classes: a patient's set holds every class whose probability is at least ``1 - threshold`` (the
  LAC score of Sadinle, Lei and Wasserman 2019, "least ambiguous").
- A number: the prediction give or take a half-width (the absolute residual; Lei et al. 2018).

The threshold is the ``ceil((n + 1) (1 - alpha))``-th smallest of the n patients' scores (Vovk et
al. 2005; Angelopoulos and Bates 2021). If the next patient is exchangeable with these, the truth is
missed with a chance of at most ``alpha``: on average over patients and over calibrations, not
for each class, each patient or each group. With other scanners or other patients than those of the
calibration it need not hold. Masks have no such sets here.

The rule alone can give an empty set: no class is probable enough, which says "unlike the patients
of the calibration" and never "certain". An empty set would always miss, so the most likely class is
added to every set. Coverage can only rise by it, and a set of one class is then no sign of
certainty either: with ``alpha`` above the model's error, most sets have one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError


@dataclass(frozen=True)
class ClassSets:
    """Sets of classes. Sensitive: it follows from a hospital's patients without noise.

    Attributes:
        threshold: a class is in a set if one less its probability is at most this.
        alpha: share of patients whose set may miss the true class.
        patients: of the calibration.
    """

    threshold: float
    alpha: float
    patients: int

    def sets(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which classes are in each patient's set; never none.

        Args:
            scores: (patients, classes), the patients' mean class probabilities.

        Returns:
            (patients, classes) bool.
        """
        known = _known(scores)
        chosen = 1.0 - known <= self.threshold
        chosen[np.arange(len(known)), known.argmax(axis=1)] = True
        return np.asarray(chosen)


@dataclass(frozen=True)
class ValueBands:
    """Intervals of a number. Sensitive: it follows from a hospital's patients without noise.

    Attributes:
        half_width: in the unit of the prediction.
        alpha: share of patients whose interval may miss the true number.
        patients: of the calibration.
    """

    half_width: float
    alpha: float
    patients: int

    def sets(self, predictions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Lower and upper end for each patient.

        Args:
            predictions: (patients,).

        Returns:
            (patients, 2) float64; without ends, minus and plus infinity, where the prediction is
            not finite.
        """
        middle = predictions.astype(np.float64)
        ends = middle[:, None] + np.array([-self.half_width, self.half_width])
        ends[~np.isfinite(middle)] = (-np.inf, np.inf)
        return np.asarray(ends)


def calibrate_classes(
    scores: NDArray[np.floating], labels: NDArray[np.integer], *, alpha: float = 0.1
) -> ClassSets:
    """Sets of classes that miss the true one for at most a share ``alpha`` of patients.

    Args:
        scores: (patients, classes), mean class probabilities of patients whom the model was not
            trained on. Sensitive. One that is not finite counts as in
            :func:`common.figures.histogram.plane_scores`: equal for each class.
        labels: (patients,) true class in ``[0, classes)``.
        alpha: share that may be missed, in (0, 1).

    Raises:
        DataError: too few patients for ``alpha``.
        ValueError: shapes, labels or an ``alpha`` that cannot be.
    """
    known = _known(scores)
    if labels.shape != (len(known),):
        raise ValueError(f"labels of shape {labels.shape} do not fit {len(known)} patients")
    if len(labels) and not 0 <= labels.min() <= labels.max() < known.shape[1]:
        raise ValueError(f"a label lies outside the {known.shape[1]} classes")
    misfit = 1.0 - known[np.arange(len(known)), labels]
    return ClassSets(_threshold(misfit, alpha), alpha, len(known))


def calibrate_values(
    predictions: NDArray[np.floating], truths: NDArray[np.floating], *, alpha: float = 0.1
) -> ValueBands:
    """Intervals that miss the true number for at most a share ``alpha`` of patients.

    Args:
        predictions: (patients,) of patients whom the model was not trained on. Sensitive.
        truths: (patients,) the true numbers, in the same unit.
        alpha: share that may be missed, in (0, 1).

    Raises:
        DataError: too few patients for ``alpha``, or more predictions that are no numbers than
            ``alpha`` allows.
        ValueError: shapes or an ``alpha`` that cannot be.
    """
    if predictions.ndim != 1 or predictions.shape != truths.shape:
        raise ValueError(f"predictions {predictions.shape} do not fit truths {truths.shape}")
    misfit = np.abs(predictions.astype(np.float64) - truths)
    # A prediction that is no number misses by any width; the patient still counts.
    misfit[~np.isfinite(misfit)] = np.inf
    half_width = _threshold(misfit, alpha)
    if half_width == np.inf:
        raise DataError(
            "the model gives no number for too many patients of the calibration",
            found=f"{int(np.isinf(misfit).sum())} of {len(misfit)} patients",
            wanted=f"a number for all but a share of {alpha:g}",
            remedy="find out why the predictions are not finite; check the images and the model",
        )
    return ValueBands(half_width, alpha, len(misfit))


def _known(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities; equal ones for a patient of whom the model knows nothing."""
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"scores are (patients, classes), not of shape {scores.shape}")
    known = np.clip(scores.astype(np.float64), 0.0, 1.0)
    unknown = ~np.isfinite(scores).all(axis=1) | (known.sum(axis=1) <= 0.0)
    known[unknown] = 1.0 / known.shape[1]
    return known


def _threshold(misfit: NDArray[np.float64], alpha: float) -> float:
    """The ``ceil((n + 1) (1 - alpha))``-th smallest misfit.

    The 1 stands for the next patient, whose misfit is equally likely to take any place among the
    others. The plain quantile of n misfits would miss more often than ``alpha``.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"a share that may be missed is between 0 and 1, not {alpha}")
    # Rounding must not make 9.000000000000002 of ten times 0.9.
    place = math.ceil((len(misfit) + 1) * (1.0 - alpha) - 1e-9)
    if place > len(misfit):
        fewest = math.ceil(1.0 / alpha - 1.0 - 1e-9)
        raise DataError(
            "there are too few patients to calibrate sets at this level",
            found=f"{len(misfit)} patients",
            wanted=f"at least {fewest} patients for sets that hold {1.0 - alpha:.0%} of truths",
            remedy="calibrate on more patients, or ask for a lower level (a larger alpha)",
        )
    return float(np.partition(misfit, place - 1)[place - 1])
