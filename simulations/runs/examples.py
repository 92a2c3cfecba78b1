"""Some patients of the test set with what a model found in them, to look at.

Only a simulation may show any: its patients are made up, or public.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np
import numpy.typing as npt

from simulations.reports.overlays import FILE, Examples
from simulations.runs.testset import Scored, TestSet

SHOWN: Final = 6
"""Patients, from the one in whom the model does worst to the one in whom it does best."""
Rows = Sequence[Sequence[float | None]]
"""For each class, a number of each patient; None of one in whom the class is not."""


class Looked:
    """What a model finds on one image of each test patient, kept while it is scored.

    Args:
        test: the test set. Without masks nothing is kept.
    """

    def __init__(self, test: TestSet) -> None:
        self._test = test
        self._rows: list[int] = []
        self._found: list[npt.NDArray[np.uint8]] = []

    def at(self, scored: Scored) -> Scored:
        """The same patients in turn; of each the image is kept in which the mask is largest."""
        if self._test.masks is None:
            yield from scored
            return
        for patient, (outputs, targets) in zip(self._test.patients, scored, strict=True):
            largest = int((targets > 0).flatten(1).sum(dim=1).argmax())
            self._rows.append(patient.images[largest])
            self._found.append(outputs[largest].argmax(dim=0).numpy().astype(np.uint8))
            yield outputs, targets

    def keep(self, run: Path, rows: Rows) -> None:
        """Write examples beside a run's result, where the study learns from masks."""
        found = self.examples(rows)
        if found is not None:
            found.save(run / FILE)

    def examples(self, rows: Rows) -> Examples | None:
        """Patients from the worst to the best, by the mean over classes; None if there are none.

        Args:
            rows: what the patients are ordered by.
        """
        each = [
            [value for value in values if value is not None] for values in zip(*rows, strict=True)
        ]
        ranked = sorted((mean(values), place) for place, values in enumerate(each) if values)
        if self._test.masks is None or not ranked:
            return None
        images, masks = self._test.images.open(), self._test.masks.open()
        steps = np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).astype(int)
        values, chosen = zip(*(ranked[step] for step in steps), strict=True)
        shown = [self._rows[one] for one in chosen]
        return Examples(
            images=images[shown].mean(axis=1, dtype=np.float32),
            truth=np.asarray(masks[shown]),
            found=np.stack([self._found[one] for one in chosen]),
            values=np.array(values),
        )
