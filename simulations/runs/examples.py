"""Some patients of the test set with what a model found in them, to look at.

Only a simulation may show any: its patients are made up, or public.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from simulations.reports.overlays import FILE, Examples
from simulations.runs.testset import Scored, TestSet

SHOWN: Final = 6
"""Patients, from the one in whom the model does worst to the one in whom it does best."""


def keep_examples(run: Path, test: TestSet, given: Scored, values: Sequence[float | None]) -> None:
    """Write examples beside a run's result, where the study learns from masks."""
    found = examples(test, given, values)
    if found is not None:
        found.save(run / FILE)


def examples(test: TestSet, given: Scored, values: Sequence[float | None]) -> Examples | None:
    """Patients from the worst to the best, by a number of each; None without masks.

    Of a patient the image is shown in which the mask is largest.

    Args:
        test: the test set.
        given: what the model gives on it.
        values: of each patient, and None of one who is not shown.
    """
    if test.masks is None:
        return None
    images, masks = test.images.open(), test.masks.open()
    rows, found = [], []
    for patient, (outputs, targets) in zip(test.patients, zip(*given, strict=True), strict=True):
        shown = int((targets > 0).flatten(1).sum(dim=1).argmax())
        rows.append(patient.images[shown])
        found.append(outputs[shown].argmax(dim=0).numpy().astype(np.uint8))
    ranked = sorted((value, place) for place, value in enumerate(values) if value is not None)
    if not ranked:
        return None
    places = np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).astype(int)
    chosen = [ranked[place][1] for place in places]
    return Examples(
        images=images[[rows[one] for one in chosen]].mean(axis=1, dtype=np.float32),
        truth=np.asarray(masks[[rows[one] for one in chosen]]),
        found=np.stack([found[one] for one in chosen]),
        values=np.array([ranked[place][0] for place in places]),
    )
