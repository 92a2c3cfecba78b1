"""The cohort of a study: a site's patients, their labels, their images, their part.

A patient may have any number of images and has one label. The parts train, validation and test
follow from thresholds on each patient's own keyed number in [0, 1): adding a patient moves no other
patient, and the parts are the same for every study.

**Each patient's place follows from that patient alone**: from the files with the patient's
identifiers, and from the rows of the label file, or the masks, that name one of these. A patient
who cannot be used is left out, with a reason that stays at the site, and for all others it is as if
that patient were not there. So nothing that depends on patients is ever an error here. An error is
a failure of the site itself, and is found without looking at any patient.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from client.data.archive import Found, Rejected, Scan, require_folder, scan
from client.data.cache import ImageShape, bytes_of, fill
from client.data.dicom import Derived, Rules
from client.data.labels import LabelFile, Labels, read_labels, require_readable
from client.data.masks.folder import Masks, people, read_masks
from client.data.masks.sources import MaskFolder, MaskRules
from client.data.pseudonyms import Pseudonyms, position
from client.data.selection import LabelledFile, each_once, select
from common.errors import SiteError
from common.files import sha256
from common.process.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from common.study.study_file import Study


Part = Literal["train", "validation", "test"]
Foldings = dict[str, dict[str, tuple[int, ...]]]
"""By the pseudonym of an identifier as written: its pseudonyms under rules, and their numbers."""


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
                "the shares of train, validation and test do not sum to 1",
                where="split",
                found=list(shares),
                wanted="three shares from 0 to 1 that sum to 1",
                remedy="for example split = [0.8, 0.1, 0.1]",
            )

    def part_of(self, pseudonym: str) -> Part:
        """The part of a patient, which does not depend on any other patient."""
        place = position(pseudonym)
        if place < self.train:
            return "train"
        # The shares may sum to just below 1: without a test share nobody may fall beyond the sum.
        return "validation" if not self.test or place < self.train + self.validation else "test"


@dataclass(frozen=True)
class Patient:
    """One patient. Sensitive, and shown as nothing.

    Attributes:
        pseudonym: keyed by the site, 64 hexadecimal digits; in memory only.
        label: index into the study's classes; the number of a study that predicts one; 0 in one
            that learns from masks.
        images: rows of :attr:`Cohort.images`, at least one; ordered by the contents of their
            files, whatever these are called and wherever they lie.
        digest: SHA-256 of the contents of the files used and of their masks', of what they were
            decoded to and of the label, 64 hexadecimal digits: another one is another patient's
            record. Never leaves the site.
    """

    pseudonym: str
    label: int | float
    images: tuple[int, ...]
    digest: str

    def __repr__(self) -> str:
        return "Patient(<masked>)"


@dataclass(frozen=True, eq=False)
class Cohort:
    """The patients of a site that a study may use. Sensitive, and shown as nothing.

    Attributes:
        patients: sorted by pseudonym; there may be none.
        images: ``(rows, channels, height, width)`` float16 in [0, 1], memory-mapped.
        masks: ``(rows, height, width)`` uint8, memory-mapped: 0, or k + 1 for class k of the
            study; None where the study does not learn from masks.
        split: how the parts are cut.
        rejected: files that are not used, with reasons; by path.
        foldings: of each PatientID in the files whatever a site ignores
            (:meth:`client.data.pseudonyms.Pseudonyms.foldings`), by its pseudonym as written.
    """

    patients: tuple[Patient, ...]
    images: NDArray[np.float16]
    split: Split
    masks: NDArray[np.uint8] | None = None
    rejected: tuple[Rejected, ...] = field(default=())
    foldings: Foldings = field(default_factory=dict, repr=False)

    def part(self, name: Part) -> tuple[Patient, ...]:
        """The patients of one part, sorted by pseudonym."""
        return tuple(each for each in self.patients if self.split.part_of(each.pseudonym) == name)

    def __repr__(self) -> str:
        return "Cohort(<masked>)"


class HeaderScan(Protocol):
    """Reads the headers of a folder's files, as :func:`client.data.archive.scan` does."""

    def __call__(
        self, folder: Path, *, decode: bool, workers: int = 1, progress: Progress = silent
    ) -> Scan:
        """Every file below a folder."""
        ...


@dataclass(frozen=True)
class ArchiveReading:
    """How an archive's files are found, and how decoded images are named on disk.

    Attributes:
        scan: reads headers.
        names: whose key hides which files decoded images are of; None for the site's own.
    """

    scan: HeaderScan = scan
    names: Pseudonyms | None = None


def load_cohort(
    images: Path,
    labels: LabelFile | MaskFolder,
    *,
    pseudonyms: Pseudonyms,
    classes: tuple[str, ...],
    modalities: tuple[str, ...],
    image_size: tuple[int, int],
    channels: int,
    spacing: tuple[float, float] | None = None,
    split: Split,
    cache: Path,
    workers: int = 1,
    progress: Progress = silent,
    derived: Derived = Derived.REJECT,
    without: Collection[str] = (),
    persons: Mapping[str, str] = MappingProxyType({}),
    decoders: str = "",
    most: int | None = None,
    reading: ArchiveReading = ArchiveReading(),
) -> Cohort:
    """Read a folder, and its labels or masks, into a cohort, which may be empty.

    Args:
        images: folder of DICOM files, read recursively.
        labels: the label file, or the folder of masks of a study that learns from masks.
        pseudonyms: under the site's key.
        classes: labels there are; a patient's label is an index into these. None of them: a label
            is a number.
        modalities: accepted values of Modality (0008,0060); empty for any.
        image_size: height and width that every image is brought to.
        channels: 1 or 3.
        spacing: of the pixels that every image is brought to, in millimetres; None to scale it to
            fit.
        split: shares of train, validation and test.
        cache: where decoded images are kept between calls.
        workers: processes for reading and decoding.
        progress: told of every file; :func:`common.process.console.progress` shows it.
        derived: what to do with derived images and localisers.
        without: pseudonyms of patients who take no part.
        persons: pseudonyms that are another's person: both are one patient, by that other's.
        decoders: :attr:`client.data.cache.ImageShape.decoders` of a cohort that was read before,
            to read its pixels again; empty for those of today.
        most: bytes that the decoded images may take on disk; None for no bound.
        reading: how files are found and decoded images named; a simulation's may be another.

    Raises:
        DataError: a failure of the site: the folder is missing or cannot be listed, before or
            after its files were read; the cache cannot be written, or would be too large; no
            process can be started.
        LabelError: a failure of the site: the label file as a whole cannot be used.
    """
    root = require_folder(images)
    known = _targets(
        images,
        labels,
        classes,
        pseudonyms=pseudonyms,
        persons=persons,
        workers=workers,
        progress=progress,
    )
    found = _images(images, known, workers, progress, reading.scan)
    rules = Rules(modalities, derived)
    chosen, rejected = select(
        found.found, rules, known, pseudonyms, without=without, persons=persons
    )
    cached = fill(
        cache,
        images,
        [each.file for each in chosen],
        ImageShape(image_size, channels, decoders, spacing, _mask_rules(labels, classes)),
        pseudonyms=reading.names or pseudonyms,
        workers=workers,
        progress=progress,
        most=most,
        shared=reading.names is not None,
    )
    # A patient whose file cannot be read leaves the study permanently. That must not happen because
    # a file server went away in the middle: then this is an error of the site, and nobody leaves.
    require_folder(images, root)
    if isinstance(labels, LabelFile):
        require_readable(labels)
    if isinstance(known, Masks):
        require_folder(known.folder.path, known.root, kind="mask")
    rows = {each.file.path: row for each, row in zip(chosen, cached.rows, strict=True)}
    # Copies are found only among files that could be decoded: a broken copy must not shadow a
    # sound one.
    places = {path: row for path, row in rows.items() if isinstance(row, range)}
    pixels = {each.file.path: found for each, found in zip(chosen, cached.digests, strict=True)}
    spoilt = [row for row in rows.values() if isinstance(row, Rejected)]
    used, copies = each_once(each for each in chosen if each.file.path in places)
    unused = [*found.rejected, *rejected, *spoilt, *copies]
    if isinstance(known, Masks):
        named = people(found.found, pseudonyms, persons)
        unused += [*known.rejected, *known.unnamed(named)]
    return Cohort(
        patients=_patients(used, places, pixels),
        images=cached.images,
        masks=cached.masks,
        split=split,
        rejected=tuple(sorted(unused, key=lambda each: each.path)),
        foldings=_foldings(found.found, pseudonyms),
    )


@dataclass(frozen=True)
class Survey:
    """What headers and labels tell of a cohort, nothing being decoded or written.

    Attributes:
        parts: by pseudonym, where a patient would stand, if an image of the patient can be
            decoded. Sensitive.
        bytes: that the decoded images would take on disk, at most.
        foldings: as of a cohort.
    """

    parts: dict[str, Part] = field(repr=False)
    bytes: int
    foldings: Foldings = field(repr=False)


def survey(
    images: Path,
    labels: LabelFile | MaskFolder,
    *,
    pseudonyms: Pseudonyms,
    classes: tuple[str, ...],
    rules: Rules,
    shape: ImageShape,
    split: Split,
    workers: int = 1,
    without: Collection[str] = (),
    persons: Mapping[str, str] = MappingProxyType({}),
) -> Survey:
    """Read a folder, and labels or masks, as :func:`load_cohort`, but for the pixels.

    Args:
        images: as there, and so all that is not named here.
        labels: as there.
        pseudonyms: as there.
        classes: as there.
        rules: which files are used.
        shape: of a decoded image.
        split: as there.
        workers: as there.
        without: as there.
        persons: as there.

    Raises:
        DataError: as there, but for the cache.
        LabelError: as there.
    """
    known = _targets(
        images,
        labels,
        classes,
        pseudonyms=pseudonyms,
        persons=persons,
        workers=workers,
        progress=silent,
    )
    found = _images(images, known, workers, silent).found
    chosen, _ = select(found, rules, known, pseudonyms, without=without, persons=persons)
    return Survey(
        {each.pseudonym: split.part_of(each.pseudonym) for each in chosen},
        bytes_of((each.file for each in chosen), shape),
        _foldings(found, pseudonyms),
    )


def image_shape(study: Study, targets: LabelFile | MaskFolder, decoders: str = "") -> ImageShape:
    """What the decoded images of a study are; decoded as today, or as they once were."""
    data, masks = study.data, _mask_rules(targets, study.task.classes)
    return ImageShape(data.image_size, data.channels, decoders, data.spacing, masks)


def _mask_rules(targets: LabelFile | MaskFolder, classes: tuple[str, ...]) -> MaskRules | None:
    return MaskRules.of(targets, classes) if isinstance(targets, MaskFolder) else None


def _targets(
    images: Path,
    labels: LabelFile | MaskFolder,
    classes: tuple[str, ...],
    *,
    pseudonyms: Pseudonyms,
    persons: Mapping[str, str],
    workers: int,
    progress: Progress,
) -> Labels | Masks:
    if isinstance(labels, MaskFolder):
        return read_masks(
            labels, images, pseudonyms, persons=persons, workers=workers, progress=progress
        )
    return read_labels(labels, classes)


def _images(
    images: Path,
    known: Labels | Masks,
    workers: int,
    progress: Progress,
    scanned: HeaderScan = scan,
) -> Scan:
    found = scanned(images, decode=False, workers=workers, progress=progress)
    return known.apart(images, found) if isinstance(known, Masks) else found


def _foldings(files: Iterable[Found], pseudonyms: Pseudonyms) -> Foldings:
    identifiers = {each.header.patient for each in files}
    found = ((pseudonyms.written(each), pseudonyms.foldings(each)) for each in identifiers if each)
    return {written: foldings for written, foldings in found if foldings}


def _patients(
    used: Iterable[LabelledFile], places: Mapping[str, range], pixels: Mapping[str, str]
) -> tuple[Patient, ...]:
    by_patient: dict[str, list[LabelledFile]] = defaultdict(list)
    for each in used:
        by_patient[each.pseudonym].append(each)
    return tuple(
        Patient(
            pseudonym=pseudonym,
            label=files[0].label,
            images=tuple(row for each in files for row in places[each.file.path]),
            digest=_digest(files, pixels),
        )
        for pseudonym, files in sorted(by_patient.items())
    )


def _digest(files: Sequence[LabelledFile], pixels: Mapping[str, str]) -> str:
    """Of one patient's record: what is used of it, and nothing of how files are called.

    Noise is keyed to it, so it holds what is computed on: the decoded pixels.
    """
    contents = sorted(f"{each.file.content} {pixels[each.file.path]}" for each in files)
    lines = ("consilium/patient/2", str(files[0].label), *contents)
    return sha256("".join(f"{line}\n" for line in lines).encode())
