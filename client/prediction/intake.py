"""New images, prepared as those of training were, one examination after the other.

The very functions that decode a site's cohort decode these: :func:`client.data.archive.examine` and
:func:`client.data.cache.decode`. An examination is what one patient has under one Study Instance
UID; a patient's images of another day are another examination. A file that cannot be used is listed
with its reason, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.archive import Found, Rejected, scan
from client.data.cache import Decoded, ImageShape, decode
from client.data.cache_index import CRASHED, CacheRefused
from client.data.dicom import Reason, Rules, Unusable, require_not_drawn
from client.data.parallel import ordered_map
from common.process.progress import Progress
from common.study.study_file import Study


@dataclass(frozen=True, eq=False)
class PreparedFile:
    """One file and its images. Sensitive.

    Attributes:
        found: the file, and what its header says.
        images: (frames, channels, height, width) float16 in [0, 1], as training has them.
    """

    found: Found = field(repr=False)
    images: NDArray[np.float16] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Examination:
    """The images of one patient under one Study Instance UID. Sensitive.

    Attributes:
        files: by path; at least one.
    """

    files: tuple[PreparedFile, ...] = field(repr=False)

    @property
    def patient(self) -> str:
        """PatientID (0010,0020); may be empty."""
        return self.files[0].found.header.patient

    @property
    def study(self) -> str:
        """StudyInstanceUID (0020,000D); may be empty."""
        return self.files[0].found.header.study

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(len(each.images) for each in self.files)

    @property
    def images(self) -> NDArray[np.float16]:
        """All of them, (images, channels, height, width)."""
        return np.concatenate([each.images for each in self.files])


def shape_of(study: Study) -> ImageShape:
    """What a prepared image looks like."""
    return ImageShape(study.data.image_size, study.data.channels, spacing=study.data.spacing)


def usable(
    folder: Path,
    *,
    rules: Rules | None,
    most: int | None = None,
    workers: int,
    progress: Progress,
    rejected: Callable[[Rejected], None],
) -> list[Found]:
    """The files of a folder that can be predicted, those of an examination together.

    Args:
        folder: of DICOM files, read recursively.
        rules: which images are used, as in training; None for all of them.
        most: files that are predicted, and the rest of the last examination; None for all.
        workers: processes that read.
        progress: told of every file.
        rejected: told of every file that cannot be used, and why.

    Raises:
        DataError: the folder cannot be read.
    """
    scanned = scan(folder, decode=False, workers=workers, progress=progress)
    for verdict in scanned.rejected:
        rejected(verdict)
    once: dict[tuple[str, str], Found] = {}
    for each in scanned.found:
        try:
            _judge(each, rules)
        except Unusable as verdict:
            rejected(Rejected(each.path, verdict.reason, verdict.detail))
            continue
        # A copy would count twice. By patient: no file of another's may take an image away.
        name = (each.header.patient, each.header.instance or each.sha256)
        first = once.setdefault(name, each)
        if first is not each:
            rejected(Rejected(each.path, Reason.DUPLICATE, "another file has the same image"))
    return _first(sorted(once.values(), key=_order), most)


def examinations(
    folder: Path,
    study: Study,
    files: Sequence[Found],
    *,
    workers: int,
    rejected: Callable[[Rejected], None],
) -> Iterator[Examination]:
    """Every examination, decoded when it is asked for.

    Args:
        folder: where the files are.
        study: what the images are prepared for.
        files: as :func:`usable` gives them.
        workers: processes that decode.
        rejected: told of every file that cannot be decoded, and why.
    """
    shape = shape_of(study)
    decoded = ordered_map(
        partial(decode, folder, shape),
        files,
        here=partial(decode, folder, shape, here=True),
        workers=workers,
        crashed=lambda _: CRASHED,
    )
    pairs = zip(files, decoded, strict=True)
    for _, group in groupby(pairs, key=lambda pair: _key(pair[0])):
        prepared = list[PreparedFile]()
        for found, result in group:
            if isinstance(result, Decoded):
                prepared.append(PreparedFile(found, result.images))
            else:
                rejected(_refusal(found, result))
        if prepared:
            yield Examination(tuple(prepared))


def _key(found: Found) -> tuple[str, str]:
    """Of an examination; a file that names neither patient nor study is one by itself."""
    patient, study = found.header.patient, found.header.study
    return (patient, study) if patient or study else ("", found.sha256)


def _judge(found: Found, rules: Rules | None) -> None:
    """Pass a file that training would take; a patient without an identifier is one here.

    Raises:
        Unusable: why training would leave it out; or it holds masks, or what an earlier
            prediction drew.
    """
    if found.header.modality == "SEG":
        raise Unusable(Reason.WRONG_MODALITY, "Modality is SEG: masks of an image, and no image")
    require_not_drawn(found.header.image_type)
    if rules is not None:
        named = found.header if found.header.patient else replace(found.header, patient="-")
        rules.judge(named)


def _order(found: Found) -> tuple[tuple[str, str], str]:
    # By path within an examination: slices are mostly named in their order.
    return _key(found), found.path


def _first(files: list[Found], most: int | None) -> list[Found]:
    """At least so many files, and no examination in part."""
    if most is None or most >= len(files):
        return files
    last = _key(files[most - 1])
    return [*files[:most], *(each for each in files[most:] if _key(each) == last)]


def _refusal(found: Found, result: CacheRefused) -> Rejected:
    return Rejected(found.path, Reason(result.reason), result.detail)
