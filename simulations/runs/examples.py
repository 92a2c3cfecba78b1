"""Some patients of the test set with what a model found in them, to look at.

Only a simulation may show any: its patients are made up, or public.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np

from simulations.reports.overlays import FILE, Examples
from simulations.runs.testset import Scored, TestSet

SHOWN: Final = 6
"""Patients, from the one in whom the model does worst to the one in whom it does best."""
Rows = Sequence[Sequence[float | None]]
"""For each class, a number of each patient; None of one in whom the class is not."""


def keep_examples(run: Path, test: TestSet, given: Scored, rows: Rows) -> None:
    """Write examples beside a run's result, where the study learns from masks."""
    found = examples(test, given, rows)
    if found is not None:
        found.save(run / FILE)


def examples(test: TestSet, given: Scored, rows: Rows) -> Examples | None:
    """Patients from the worst to the best, by the mean over classes; None without masks.

    Of a patient the image is shown in which the mask is largest.

    Args:
        test: the test set.
        given: what the model gives on it.
        rows: what the patients are ordered by.
    """
    if test.masks is None:
        return None
    images, masks = test.images.open(), test.masks.open()
    shown, found = [], []
    for patient, (outputs, targets) in zip(test.patients, zip(*given, strict=True), strict=True):
        largest = int((targets > 0).flatten(1).sum(dim=1).argmax())
        shown.append(patient.images[largest])
        found.append(outputs[largest].argmax(dim=0).numpy().astype(np.uint8))
    each = [[value for value in values if value is not None] for values in zip(*rows, strict=True)]
    ranked = sorted((mean(values), place) for place, values in enumerate(each) if values)
    if not ranked:
        return None
    steps = np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).astype(int)
    values, chosen = zip(*(ranked[step] for step in steps), strict=True)
    return Examples(
        images=images[[shown[one] for one in chosen]].mean(axis=1, dtype=np.float32),
        truth=np.asarray(masks[[shown[one] for one in chosen]]),
        found=np.stack([found[one] for one in chosen]),
        values=np.array(values),
    )
