"""Hospitals of different sizes that see the same (Li et al. 2022, arXiv:2102.02079, section 4.3).

Each hospital's share of the patients is drawn from a symmetric Dirichlet distribution.
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
    require_sites,
)


class Quantity(Partitioning):
    """Shares from a Dirichlet distribution.

    Attributes:
        alpha: its concentration: small for sizes that differ much, large for equal ones.
    """

    kind: ClassVar[str] = "quantity"

    alpha: float = Field(default=0.5, ge=1e-3, le=1e6)

    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """See :meth:`Partitioning.divide`; a small alpha may leave sites without patients."""
        patients = len(subjects.labels)
        require_sites(sites, patients)
        shares = rng.dirichlet(np.full(sites, self.alpha))
        edges = np.floor(np.cumsum(shares)[:-1] * patients + 0.5).astype(np.int64)
        sizes = np.diff(np.concatenate([[0], edges, [patients]]))
        return Partition(cut(rng.permutation(patients), sizes))
