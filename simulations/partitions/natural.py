"""The institutions that the source itself names, each a hospital."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np

from common.errors import DataError
from simulations.partitions.partition import Partition, Partitioning, Subjects


class Natural(Partitioning):
    """One hospital for each institution; the number of sites follows from the source."""

    kind: ClassVar[str] = "natural"

    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """See :meth:`Partitioning.divide`."""
        del sites, rng
        if subjects.institutions is None:
            raise DataError(
                "this source does not say which institution a patient is from",
                where="--partition natural",
                wanted="a column of institutions (--site-column of from-csv)",
                remedy="name the column, or use another --partition",
            )
        found = sorted(set(subjects.institutions.tolist()))
        names = [re.sub(r"[^a-z0-9]+", "-", each.lower()).strip("-")[:63] for each in found]
        if "" in names or len(set(names)) < len(names) or "test" in names:
            raise DataError(
                "the names of the institutions cannot be names of hospitals",
                where="--partition natural",
                found=", ".join(found[:5]),
                wanted="names that differ in their letters and digits; none of them is test",
                remedy="change the names in the source",
            )
        members = tuple(np.flatnonzero(subjects.institutions == each) for each in found)
        return Partition(members, names=tuple(names))
