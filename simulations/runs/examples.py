"""Some patients of the test set with what a model found in them, to look at.

Only a simulation may show any: its patients are made up, or public.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from common.study.study_file import Study
from simulations.reports.overlays import FILE, Examples
from simulations.runs.testset import Scored, TestSet

SHOWN: Final = 6
"""Patients, from the one in whom the model does worst to the one in whom it does best."""


def keep_examples(run: Path, study: Study, test: TestSet, given: Scored) -> None:
    """Write examples beside a run's result, where the study learns from masks."""
    found = examples(study, test, given)
    if found is not None:
        found.save(run / FILE)


def examples(study: Study, test: TestSet, given: Scored) -> Examples | None:
    """Patients from the worst to the best, by the headline figure of each; None without masks.

    Of a patient the image is shown in which the mask is largest.

    Args:
        study: what was learned.
        test: the test set.
        given: what the model gives on it.
    """
    if test.masks is None:
        return None
    images, masks = test.images.open(), test.masks.open()
    rows, found, values = [], [], []
    for patient, (outputs, targets) in zip(test.patients, zip(*given, strict=True), strict=True):
        shown = int((targets > 0).flatten(1).sum(dim=1).argmax())
        rows.append(patient.images[shown])
        found.append(outputs[shown].argmax(dim=0).numpy().astype(np.uint8))
        value = study.task.exact([outputs], [targets]).values[study.task.headline].value
        values.append(np.nan if value is None else value)
    known = [place for place in np.argsort(values, kind="stable") if np.isfinite(values[place])]
    places = np.linspace(0, len(known) - 1, min(SHOWN, len(known))).astype(int)
    chosen = [int(known[place]) for place in places]
    if not chosen:
        return None
    return Examples(
        images=images[[rows[one] for one in chosen]].mean(axis=1, dtype=np.float32),
        truth=np.asarray(masks[[rows[one] for one in chosen]]),
        found=np.stack([found[one] for one in chosen]),
        values=np.array([values[one] for one in chosen]),
    )
