"""A second reader beside the model: how each does on the same patients.

What is known of a patient is the label; the reader's opinion is another column. Agreement is
Cohen's kappa (1960), and whether one is right more often McNemar's exact test (1947).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.figures.intervals import Estimate, share


@dataclass(frozen=True)
class Reading:
    """The model and the reader on patients of whom both said something. Sensitive.

    Attributes:
        patients: how many.
        model: share whom the model names rightly.
        reader: share whom the reader names rightly.
        kappa: agreement of model and reader beyond chance; not a number where each says one thing.
        only_model: patients whom only the model names rightly.
        only_reader: patients whom only the reader names rightly.
        p: how likely such a difference is if both are right equally often.
    """

    patients: int
    model: Estimate
    reader: Estimate
    kappa: float
    only_model: int
    only_reader: int
    p: float


def compare(
    labels: NDArray[np.int64], model: NDArray[np.int64], reader: NDArray[np.int64]
) -> Reading:
    """Compare two readings of the same patients.

    Args:
        labels: (patients,) true classes.
        model: likewise, what the model says.
        reader: likewise, what the reader says.
    """
    right, others = model == labels, reader == labels
    only_model, only_reader = int((right & ~others).sum()), int((others & ~right).sum())
    differ = only_model + only_reader
    return Reading(
        patients=len(labels),
        model=_share(right),
        reader=_share(others),
        kappa=kappa(model, reader),
        only_model=only_model,
        only_reader=only_reader,
        p=float(stats.binomtest(only_model, differ).pvalue) if differ else 1.0,
    )


def kappa(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    """Cohen's kappa: ``(agree - by chance) / (1 - by chance)``."""
    classes = np.union1d(ours, theirs)
    agree = float((ours == theirs).mean())
    chance = sum(float((ours == k).mean() * (theirs == k).mean()) for k in classes)
    return (agree - chance) / (1.0 - chance) if chance < 1.0 else float("nan")


def _share(right: NDArray[np.bool_]) -> Estimate:
    return share(float(right.sum()), float((~right).sum()), of="patients")
