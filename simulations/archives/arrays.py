"""Hospitals as arrays: decoded images and what they show, without DICOM and without files to read.

For studies of labels that are not about intake, and for thousands of hospitals. All hospitals share
the files; each has some of their rows::

    DIR/hospitals.json     where everything came from; "rows": first and last + 1 by hospital
    DIR/images.npy         float16 (rows, channels, height, width), in [0, 1]
    DIR/targets.npy        int64 (rows,): index of the class; or float64: the number
    DIR/patients.npy       int64 (rows,): numbers of patients within their hospital
    DIR/<site>/site.toml   the hospital's half of every study
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client.cohorts import Cohorts
from client.data.cohort import Cohort, Patient, Split
from client.data.pseudonyms import Pseudonyms
from client.site_records import SiteRecords
from client.sitefile import SiteFile
from common.errors import DataError, StudyError
from common.files import canonical_json, sha256
from common.process.progress import Progress, silent
from common.study.study_file import Study

IMAGES: Final = "images.npy"
TARGETS: Final = "targets.npy"
PATIENTS: Final = "patients.npy"
NAMES: Final = (IMAGES, TARGETS, PATIENTS)
Rows = tuple[int, int]
"""The first row of a hospital, and the first of the next."""


@dataclass(frozen=True)
class ArrayRows:
    """The part of the arrays that one hospital has; it can be sent to another process.

    Attributes:
        folder: of the hospitals.
        name: of the hospital.
        rows: that are its own.
    """

    folder: Path
    name: str
    rows: Rows

    def cohort(self, study: Study, pseudonyms: Pseudonyms, split: Split) -> Cohort:
        """Its patients; images stay on disk and are mapped.

        Raises:
            StudyError: the arrays are of other images than the study's.
            DataError: they cannot be read, or hold what the study cannot learn.
        """
        images = self._mapped(IMAGES)
        _require_fitting(study, images, self.folder)
        targets = self._targets(study)
        held: dict[int, list[int]] = defaultdict(list)
        for row, number in enumerate(self._mapped(PATIENTS).tolist()):
            held[number].append(row)
        patients = (
            Patient(
                pseudonyms.of(f"{self.name}-{number}"),
                targets[rows[0]],
                tuple(rows),
                _digest(images, targets[rows[0]], rows),
            )
            for number, rows in held.items()
        )
        ordered = sorted(patients, key=lambda each: each.pseudonym)
        return Cohort(tuple(ordered), images, split)

    def _targets(self, study: Study) -> list[Any]:
        """What each row shows: a class's index, or a number."""
        targets = self._mapped(TARGETS)
        whole = np.issubdtype(targets.dtype, np.integer)
        classes = len(study.task.classes)
        masked = study.task.target == "mask"
        if (
            masked
            or whole != bool(classes)
            or (classes and len(targets) and targets.max() >= classes)
        ):
            raise StudyError(
                "the hospitals' arrays do not show what the study learns",
                where=self.folder / TARGETS,
                found=f"{targets.dtype}" + (f", up to {targets.max()}" if whole else ""),
                wanted=f"whole numbers below {classes}" if classes else "numbers, float64",
                remedy="use a study with the classes that these hospitals were made with",
            )
        found: list[Any] = targets.tolist()
        return found

    def _mapped(self, name: str) -> npt.NDArray[Any]:
        return mapped(self.folder / name, self.rows)


class ArrayCohorts(Cohorts):
    """What a hospital reads of its patients, where these are rows of arrays."""

    def __init__(
        self,
        part: ArrayRows,
        folder: Path,
        file: SiteFile,
        records: SiteRecords,
        workers: int | None = None,
    ) -> None:
        super().__init__(folder, file, records, workers)
        self._part = part

    @classmethod
    def of_part(cls, part: ArrayRows) -> partial[ArrayCohorts]:
        """What makes the reader of a site (:data:`client.site.Reader`)."""
        return partial(cls, part)

    def read(
        self,
        study: Study,
        progress: Progress = silent,
        decoders: str = "",
        *,
        most: int | None = None,
    ) -> Cohort:
        """The hospital's patients for a study.

        Raises:
            StudyError: the arrays are of other images, or show something else.
            DataError: they cannot be read.
        """
        del progress, decoders, most  # nothing is decoded, and nothing written
        absent = self.absent()
        wanted = study.data.model_dump_json() + study.task.model_dump_json()
        wanted += sha256(canonical_json(sorted(absent)))
        if wanted not in self._held:
            split = self._file.dataset(study).parts
            cohort = self._part.cohort(study, self.pseudonyms, split)
            left = tuple(each for each in cohort.patients if each.pseudonym not in absent)
            self._held = {wanted: replace(cohort, patients=left)}
        return self._held[wanted]


def mapped(path: Path, rows: Rows) -> npt.NDArray[Any]:
    """Some rows of a stored array, memory-mapped and read-only.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    shape, dtype, start = _header(path)
    first, last = rows
    if not 0 <= first <= last <= shape[0]:
        raise DataError(
            "a hospital has rows that the arrays do not have",
            where=path,
            found=f"rows {first} to {last}",
            wanted=f"rows below {shape[0]}",
            remedy="make the hospitals again",
        )
    if first == last:  # nothing can be mapped of nothing
        return np.zeros((0, *shape[1:]), dtype)
    width = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return np.memmap(path, dtype, "r", start + first * width, (last - first, *shape[1:]))


@cache
def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and first byte of the values."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            "the hospitals' arrays cannot be read",
            where=path,
            found=type(error).__name__,
            wanted="an array as NumPy stores it (.npy)",
            remedy="make the hospitals again",
        ) from error
    return found.shape, found.dtype, found.offset if isinstance(found, np.memmap) else 0


def _require_fitting(study: Study, images: npt.NDArray[Any], folder: Path) -> None:
    wanted = (study.data.channels, *study.data.image_size)
    if images.dtype != np.float16 or images.shape[1:] != wanted:
        raise StudyError(
            "the hospitals' arrays hold other images than the study asks for",
            where=folder / IMAGES,
            found=f"{images.dtype} {images.shape[1:]} (channels, height, width)",
            wanted=f"float16 {wanted}",
            remedy="set [data] image_size and channels to what is found, or make the hospitals "
            "again with images of the study's size",
        )


def _digest(images: npt.NDArray[Any], target: float, rows: list[int]) -> str:
    """Of one patient's record: noise is keyed to it, so it holds what is computed on."""
    lines = ("consilium/patient/arrays", str(target), sha256(images[rows].tobytes()))
    return sha256("\n".join(lines).encode())
