"""A source's images divided among hospitals, and what has to be said of the division."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from simulations.partitions.partition import Partitioning, Subjects

Number = TypeVar("Number", np.uint8, np.int64)


@dataclass(frozen=True, eq=False)
class Part:
    """What one hospital, or the test set, gets.

    Attributes:
        images: ``(images, rows, columns)`` uint8, or the same with 3 colours.
        labels: ``(images,)`` int64.
        patients: ``(images,)`` int64, numbers of patients.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]


class Divisible(Protocol):
    """What is divided: pictures and labels by part, and what is known of whose they are."""

    @property
    def images(self) -> dict[str, NDArray[np.uint8]]:
        """By part, uint8."""
        ...

    @property
    def labels(self) -> dict[str, NDArray[np.int64]]:
        """By part, int64."""
        ...

    @property
    def patients(self) -> dict[str, NDArray[np.int64]] | None:
        """By part, numbers of patients; None where each picture is one."""
        ...

    @property
    def institutions(self) -> NDArray[np.str_] | None:
        """Of the pictures to divide; None where none are named."""
        ...


Names = Callable[[int], tuple[str, ...]]
"""Names of so many hospitals."""


@dataclass(frozen=True, eq=False)
class Divided:
    """A source, divided.

    Attributes:
        parts: by hospital.
        test: kept apart from all.
        redraws: divisions that were rejected before this one.
        notes: what must be said of it.
    """

    parts: dict[str, Part]
    test: Part
    redraws: int
    notes: tuple[str, ...]


def divide(source: Divisible, how: Partitioning, sites: int, seed: int, names: Names) -> Divided:
    """Divide the images that are not for testing; all of a patient go to one hospital.

    Raises:
        DataError: there is no such division, or only one hospital has patients.
    """
    pool, labels = _pooled(source.images), _pooled(source.labels)
    patients = np.arange(len(labels)) if source.patients is None else _pooled(source.patients)
    if source.patients is not None:
        _require_parts_apart(source.patients)
    # A patient is divided by the first image: its label and its institution.
    _, first, number = np.unique(patients, return_index=True, return_inverse=True)
    institutions = source.institutions
    subjects = Subjects(
        labels[first], pool[first], None if institutions is None else institutions[first]
    )
    found = how.divide(subjects, sites, np.random.default_rng(seed))
    count = len(found.sites)
    parts, empty = {}, []
    for at, (name, members) in enumerate(
        zip(found.names or names(count), found.sites, strict=True)
    ):
        if not len(members):
            empty.append(name)
            continue
        rows = np.flatnonzero(np.isin(number, members))
        rng = np.random.default_rng([seed, at])
        parts[name] = Part(how.changed(pool[rows], at, count, rng), labels[rows], patients[rows])
    if len(parts) < min(2, count):
        raise DataError(
            "this division leaves patients at fewer than two hospitals",
            where=f"--partition {how.kind}",
            found=f"patients at {', '.join(parts) or 'none'}",
            wanted="two hospitals or more",
            remedy="use other options, or another --seed",
        )
    nobody = f"EMPTY HOSPITALS, left out: {', '.join(empty)}" if empty else ""
    apart = source.patients
    test = Part(
        source.images["test"],
        source.labels["test"],
        np.arange(len(source.labels["test"])) if apart is None else apart["test"],
    )
    return Divided(parts, test, found.redraws, (nobody,) if nobody else ())


def _require_parts_apart(patients: Mapping[str, NDArray[np.int64]]) -> None:
    both = np.intersect1d(patients["train"], patients["val"])
    assert not len(both), "a patient is in two parts"


def _pooled(parts: dict[str, NDArray[Number]]) -> NDArray[Number]:
    return np.concatenate([parts["train"], parts["val"]])
