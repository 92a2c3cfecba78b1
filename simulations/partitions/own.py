"""A researcher's own way to divide patients: a Python file, named on the command line.

The file has one function::

    def divide(labels, images, sites, rng):
        '''Give for each hospital the indices of its patients.'''
        order = rng.permutation(len(labels))
        return [order[number::sites] for number in range(sites)]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common.errors import DataError
from common.files import sha256_file
from simulations.own_code import function_of
from simulations.partitions.partition import Partition, Partitioning, Subjects


class Own(Partitioning):
    """The function ``divide`` of a Python file.

    Attributes:
        file: the Python file.
    """

    kind: ClassVar[str] = "own"

    file: Path

    @property
    def sha256(self) -> str:
        """Of the file, for the manifest."""
        return sha256_file(self.file)

    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """See :meth:`Partitioning.divide`."""
        given = function_of(self.file, "divide")(subjects.labels, subjects.images, sites, rng)
        try:
            members = tuple(np.sort(np.asarray(each, dtype=np.int64).reshape(-1)) for each in given)
        except (TypeError, ValueError) as error:
            raise self._wrong(type(given).__name__) from error
        together = np.concatenate(members) if members else np.zeros(0, np.int64)
        once = set(together.tolist())
        known = once <= set(range(len(subjects.labels)))
        if len(members) != sites or not known or len(once) < len(together):
            raise self._wrong(
                f"{len(members)} hospitals for {sites}, {len(once)} patients of "
                f"{len(subjects.labels)}, {len(together) - len(once)} of them twice"
            )
        return Partition(members)

    def _wrong(self, found: Any) -> DataError:  # noqa: ANN401 - whatever the file gave
        return DataError(
            "the file's division cannot be used",
            where=f"{self.file}: divide",
            found=found,
            wanted="for each hospital the indices of its patients; nobody at two hospitals",
            remedy="see docs/simulations.md, “A division of your own”",
        )
