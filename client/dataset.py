"""The cohort of a study: a site's patients, their labels, their images, their part.

A patient may have any number of images and has one label. Train, validation and test are
cut by thresholding each patient's own keyed place in [0, 1): adding a patient moves
nobody, and the cut is the same for every study. A cohort's fingerprint covers every file's
content, every label, every pseudonym and every part, and so freezes it.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from client.archive import Found, Rejected, scan, summary
from client.cache import Shape, fill
from client.dicom import Derived, Reason, Rules, Unusable
from client.identity import Pseudonyms, position
from client.labels import LabelFile, Labels, fault, read_labels
from client.parallel import Progress, silent
from common.errors import DataError, Refusal, RefusalCode, SiteError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = [
    "Cohort",
    "LabelFile",
    "Labelled",
    "Part",
    "Patient",
    "Split",
    "each_once",
    "load_cohort",
    "require_unchanged",
    "select",
]

Part = Literal["train", "validation", "test"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


@dataclass(frozen=True)
class Split:
    """Shares of train, validation and test; thresholds on a patient's own place in [0, 1).

    Raises:
        SiteError: a share is negative, or they do not sum to 1.
    """

    train: float
    validation: float
    test: float

    def __post_init__(self) -> None:
        shares = (self.train, self.validation, self.test)
        if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-9):
            raise SiteError(
                "the shares of train, validation and test do not cut a whole",
                where="split",
                found=list(shares),
                wanted="three shares from 0 to 1 that sum to 1",
                remedy="for example split = [0.8, 0.1, 0.1]",
            )

    def part_of(self, pseudonym: str) -> Part:
        """The part that a patient stands in, whoever else is there."""
        place = position(pseudonym)
        if place < self.train:
            return "train"
        # Without a test share nobody falls behind the sum's rounding.
        return "validation" if not self.test or place < self.train + self.validation else "test"


@dataclass(frozen=True)
class Patient:
    """One patient. Sensitive, and shown as nothing.

    Attributes:
        pseudonym: keyed by the site, 64 hexadecimal digits; in memory only.
        label: index into the study's classes.
        images: rows of :attr:`Cohort.images`, at least one.
    """

    pseudonym: str
    label: int
    images: tuple[int, ...]

    def __repr__(self) -> str:
        return "Patient(<masked>)"


@dataclass(frozen=True, eq=False)
class Cohort:
    """The patients of a site that a study may use. Sensitive, and shown as nothing.

    Attributes:
        patients: sorted by pseudonym.
        images: ``(rows, channels, height, width)`` float16 in [0, 1], memory-mapped.
        fingerprint: SHA-256, 64 hexadecimal digits; never leaves the site.
        split: how the parts are cut.
        rejected: files that are not used, with reasons; by path.
    """

    patients: tuple[Patient, ...]
    images: NDArray[np.float16]
    fingerprint: str
    split: Split
    rejected: tuple[Rejected, ...] = field(default=())

    def part(self, name: Part) -> tuple[Patient, ...]:
        """The patients of one part, sorted by pseudonym."""
        return tuple(each for each in self.patients if self.split.part_of(each.pseudonym) == name)

    def __repr__(self) -> str:
        return "Cohort(<masked>)"


@dataclass(frozen=True)
class Labelled:
    """A file with its patient and label. Sensitive."""

    file: Found
    pseudonym: str = field(repr=False)
    label: int = field(repr=False)
    line: int = field(repr=False)

    @property
    def order(self) -> tuple[str, str]:
        """By patient, then by content: nothing that renaming a file would change."""
        return self.pseudonym, self.file.sha256


def load_cohort(
    images: Path,
    labels: LabelFile,
    *,
    pseudonyms: Pseudonyms,
    classes: tuple[str, ...],
    modalities: tuple[str, ...],
    image_size: tuple[int, int],
    channels: int,
    split: Split,
    cache: Path,
    workers: int = 1,
    progress: Progress = silent,
    derived: Derived = Derived.REJECT,
    without: Collection[str] = (),
) -> Cohort:
    """Read a folder and its labels into a cohort.

    Args:
        images: folder of DICOM files, read recursively.
        labels: the label file.
        pseudonyms: under the site's key.
        classes: labels there are; a patient's label is an index into these.
        modalities: accepted values of Modality (0008,0060); empty for any.
        image_size: height and width that every image is brought to.
        channels: 1 or 3.
        split: shares of train, validation and test.
        cache: where decoded images are kept between calls.
        workers: processes for reading and decoding.
        progress: told of every file; :func:`common.console.progress` shows it.
        derived: what to do with derived images and localisers.
        without: pseudonyms of patients who take no part.

    Raises:
        DataError: no folder, no DICOM file in it, no image left to use, or a cache that
            cannot be written.
        LabelError: the label file cannot be used, or gives a patient two labels.
    """
    known = read_labels(labels, classes)
    found = scan(images, decode=False, workers=workers, progress=progress)
    rules = Rules(modalities, derived)
    chosen, rejected = select(found.found, rules, known, pseudonyms, without)
    cached = fill(
        cache,
        images,
        [each.file for each in chosen],
        Shape(image_size, channels),
        pseudonyms=pseudonyms,
        workers=workers,
        progress=progress,
    )
    rows = {each.file.path: row for each, row in zip(chosen, cached.rows, strict=True)}
    places = {path: row for path, row in rows.items() if isinstance(row, range)}
    spoilt = [row for row in rows.values() if isinstance(row, Rejected)]
    used, copies = each_once(each for each in chosen if each.file.path in places)
    unused = [*found.rejected, *rejected, *spoilt, *copies]
    if not used:
        raise _nothing_usable(images, unused)
    return Cohort(
        patients=_patients(used, places),
        images=cached.images,
        fingerprint=_fingerprint(used, split),
        split=split,
        rejected=tuple(sorted(unused, key=lambda each: each.path)),
    )


def select(
    files: Sequence[Found],
    rules: Rules,
    labels: Labels,
    pseudonyms: Pseudonyms,
    without: Collection[str] = (),
) -> tuple[list[Labelled], list[Rejected]]:
    """The files that a study can use, as far as headers and labels tell.

    A patient who takes no part is as if not there: neither chosen nor rejected.

    Returns:
        What is chosen, sorted by patient and content and with copies, and what is rejected.

    Raises:
        LabelError: rows name files ambiguously, or give a patient two labels.
    """
    labelled: list[Labelled] = []
    rejected: list[Rejected] = []
    for file, row in zip(files, labels.assign(files), strict=True):
        try:
            rules.judge(file.header)
            if row is None:
                raise Unusable(Reason.NO_LABEL, f"no row has its {labels.file.key}")
        except Unusable as verdict:
            rejected.append(Rejected(file.path, verdict.reason, verdict.detail))
            continue
        pseudonym = pseudonyms.of(file.header.patient)
        if pseudonym in without:
            continue
        labelled.append(Labelled(file, pseudonym, labels.classes.index(row.label), row.line))
    _require_agreement(labels.file, labelled)
    return sorted(labelled, key=lambda each: each.order), rejected


def each_once(labelled: Iterable[Labelled]) -> tuple[list[Labelled], list[Rejected]]:
    """Every image of a patient once: not its copies, nor itself encoded in another way.

    Patients are looked at one by one: whatever one patient's files hold, another's stay.
    """
    once: list[Labelled] = []
    copies: list[Rejected] = []
    seen: set[tuple[str, str]] = set()
    for each in labelled:
        content = (each.pseudonym, each.file.sha256)
        instance = (each.pseudonym, each.file.header.instance)
        if content in seen:
            detail = "another file has the same content"
            copies.append(Rejected(each.file.path, Reason.DUPLICATE, detail))
        elif instance[1] and instance in seen:
            detail = "another file of the patient has its SOPInstanceUID (0008,0018)"
            copies.append(Rejected(each.file.path, Reason.DUPLICATE, detail))
        else:
            once.append(each)
        seen.update((content, instance))
    return once, copies


def require_unchanged(cohort: Cohort, frozen: str) -> None:
    """Hold a cohort that was read again against the fingerprint that was approved.

    Raises:
        Refusal: it is another cohort.
    """
    if cohort.fingerprint != frozen:
        raise Refusal(
            RefusalCode.COHORT_CHANGED,
            "the images, labels or patients of this study are not those that were approved",
            remedy="put the folder and the label file back as they were, or approve the plan "
            "again: consilium-site approve freezes the patients of today",
        )


def _require_agreement(file: LabelFile, chosen: Iterable[Labelled]) -> None:
    by_patient: dict[str, list[Labelled]] = defaultdict(list)
    for each in chosen:
        by_patient[each.pseudonym].append(each)
    split = [group for group in by_patient.values() if len({each.label for each in group}) > 1]
    if split:
        number = "a patient" if len(split) == 1 else f"{len(split)} patients"
        raise fault(
            file,
            f"rows of the label file give {number} more than one label",
            [each.line for group in split for each in group],
            wanted="one label for each patient",
            remedy="decide on one, or leave out the rows that are not meant",
        )


def _nothing_usable(folder: Path, rejected: Iterable[Rejected]) -> DataError:
    return DataError(
        "no image of the folder can be used in this study",
        where=folder,
        found=summary(rejected),
        wanted="DICOM images of the study's modalities, each with a PatientID and a label",
        remedy="consilium-site check says what each reason means and what to do",
    )


def _patients(used: Iterable[Labelled], places: Mapping[str, range]) -> tuple[Patient, ...]:
    rows: dict[str, list[int]] = defaultdict(list)
    labels: dict[str, int] = {}
    for each in used:
        rows[each.pseudonym].extend(places[each.file.path])
        labels[each.pseudonym] = each.label
    return tuple(Patient(name, labels[name], tuple(rows[name])) for name in sorted(rows))


def _fingerprint(used: Sequence[Labelled], split: Split) -> str:
    lines = sorted(
        f"{each.file.sha256} {each.label} {each.pseudonym} {split.part_of(each.pseudonym)}\n"
        for each in used
    )
    return hashlib.sha256("".join(["consilium/cohort/1\n", *lines]).encode()).hexdigest()
