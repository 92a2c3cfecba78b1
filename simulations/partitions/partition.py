"""What a way to divide patients is: from labels, pictures and institutions to hospitals.

A way is one file with one class: its options, each with a range, and :meth:`Partitioning.divide`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.settings import Section

Members = npt.NDArray[np.int64]
"""Indices of patients, ascending."""


@dataclass(frozen=True)
class Subjects:
    """What patients are divided by.

    Attributes:
        labels: ``(patients,)`` int64, the class of each.
        images: ``(patients, ...)`` uint8, one picture of each.
        institutions: ``(patients,)`` of text, where the source names them; else None.
    """

    labels: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint8]
    institutions: npt.NDArray[np.str_] | None = None


@dataclass(frozen=True)
class Partition:
    """Who goes where.

    Attributes:
        sites: for each site the indices of its patients.
        redraws: draws that were rejected before this one.
        names: of the sites, where they have some of their own; else empty.
    """

    sites: tuple[Members, ...]
    redraws: int = 0
    names: tuple[str, ...] = ()


class Partitioning(Section, ABC):
    """A way to divide patients, with its options."""

    kind: ClassVar[str]

    @abstractmethod
    def divide(self, subjects: Subjects, sites: int, rng: np.random.Generator) -> Partition:
        """Divide patients over sites; each goes to one.

        Args:
            subjects: whom.
            sites: how many.
            rng: everything random follows from it.

        Raises:
            DataError: there is no such division; the message says what would work.
        """

    def changed(
        self, images: npt.NDArray[np.uint8], site: int, sites: int, rng: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        """A site's images as its scanner would give them; here as they are.

        Args:
            images: ``(images, ...)`` uint8.
            site: its number, from 0.
            sites: how many there are.
            rng: of this site alone.
        """
        del site, sites, rng
        return images


def require_sites(sites: int, patients: int) -> None:
    """Refuse more sites than patients, or none.

    Raises:
        DataError: says how many there can be.
    """
    if not 1 <= sites <= patients:
        raise DataError(
            "patients cannot be divided among so many hospitals",
            where="--sites",
            found=sites,
            wanted=f"1 to {patients}: each hospital needs a patient",
            remedy="make fewer hospitals, or use a larger file",
        )


def cut(order: npt.NDArray[Any], sizes: npt.NDArray[np.int64]) -> tuple[Members, ...]:
    """Patients in an order, cut into parts of these sizes; each part ascending."""
    parts = np.split(np.asarray(order, dtype=np.int64), np.cumsum(sizes)[:-1])
    return tuple(np.sort(part) for part in parts)


def even(total: int, parts: int) -> npt.NDArray[np.int64]:
    """Sizes of so many parts, as equal as can be."""
    sizes = np.full(parts, total // parts, dtype=np.int64)
    sizes[: total % parts] += 1
    return sizes
