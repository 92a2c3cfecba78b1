"""Hospitals that are alike: each patient goes to any of them, all of one size."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from simulations.partitions.partition import (
    Partition,
    Partitioning,
    Subjects,
    cut,
    even,
    require_sites,
)


class Iid(Partitioning):
    """Patients in random order, cut into equal parts."""

    kind: ClassVar[str] = "iid"

    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """See :meth:`Partitioning.divide`."""
        patients = len(subjects.labels)
        require_sites(sites, patients)
        return Partition(cut(rng.permutation(patients), even(patients, sites)))
