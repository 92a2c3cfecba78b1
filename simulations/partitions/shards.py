"""Hospitals that see few classes each: the pathological division of McMahan et al. (2017).

Patients are sorted by class and cut into shards of one size; each hospital gets a few of these
(arXiv:1602.05629, section 3).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from simulations.partitions.partition import (
    Partition,
    Partitioning,
    Subjects,
    cut,
    even,
    require_sites,
)


class Shards(Partitioning):
    """Shards of patients sorted by class.

    Attributes:
        shards_per_site: that each hospital gets: about as many classes as it sees.
    """

    kind: ClassVar[str] = "shards"

    shards_per_site: int = Field(default=2, ge=1, le=1000)

    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """See :meth:`Partitioning.divide`."""
        patients = len(subjects.labels)
        require_sites(sites * self.shards_per_site, patients)
        # Mixed within a class first: a file may be sorted by source.
        order = rng.permutation(patients)
        order = order[np.argsort(subjects.labels[order], kind="stable")]
        shards = cut(order, even(patients, sites * self.shards_per_site))
        dealt = rng.permutation(len(shards)).reshape(sites, self.shards_per_site)
        hands = (np.concatenate([shards[at] for at in hand]) for hand in dealt)
        return Partition(tuple(np.sort(hand) for hand in hands))
