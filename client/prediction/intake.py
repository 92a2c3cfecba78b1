"""New images, prepared as those of training were, one examination after the other.

The very functions that decode a site's cohort decode these: :func:`client.data.archive.examine` and
:func:`client.data.cache.decode`. An examination is what one patient has under one Study Instance
UID;
a patient's images of another day are another examination. A file that cannot be used is listed with
its reason, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.archive import Found, Rejected, scan
from client.data.cache import Decoded, ImageShape, decode
from client.data.cache_index import CRASHED, CacheRefused
from client.data.dicom import Reason, shown
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
        files: by series, number and content; at least one.
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
    def images(self) -> NDArray[np.float16]:
        """All of them, (images, channels, height, width)."""
        return np.concatenate([each.images for each in self.files])


def shape_of(study: Study) -> ImageShape:
    """What a prepared image looks like."""
    return ImageShape(study.data.image_size, study.data.channels, spacing=study.data.spacing)


def examinations(
    folder: Path,
    study: Study,
    *,
    modalities: tuple[str, ...] = (),
    most: int | None = None,
    workers: int,
    progress: Progress,
    rejected: Callable[[Rejected], None],
) -> Iterator[Examination]:
    """Every examination of a folder, decoded when it is asked for.

    Args:
        folder: of DICOM files, read recursively.
        study: what the images are prepared for.
        modalities: that are used; empty for any.
        most: files that are predicted; None for all.
        workers: processes that read and decode.
        progress: told of every file.
        rejected: told of every file that cannot be used, and why.

    Raises:
        DataError: the folder cannot be read.
    """
    scanned = scan(folder, decode=False, workers=workers, progress=progress)
    for verdict in scanned.rejected:
        rejected(verdict)
    once: dict[str, Found] = {}
    wanted = {each.upper() for each in modalities}
    for each in scanned.found:
        if wanted and each.header.modality not in wanted:
            detail = f"Modality is {shown(each.header.modality)}"
            rejected(Rejected(each.path, Reason.WRONG_MODALITY, detail))
            continue
        # A copy of an image would count twice in the examination's score.
        first = once.setdefault(each.header.instance or each.sha256, each)
        if first is not each:
            rejected(Rejected(each.path, Reason.DUPLICATE, "another file has the same image"))
    files = sorted(once.values(), key=_order)[:most]
    shape = shape_of(study)
    with progress("predicting", len(files), unit="files") as job:
        decoded = ordered_map(
            partial(decode, folder, shape),
            files,
            here=partial(decode, folder, shape, here=True),
            workers=workers,
            crashed=lambda _: CRASHED,
        )
        pairs = zip(files, decoded, strict=True)
        for _, group in groupby(pairs, key=lambda pair: _key(pair[0])):
            usable = list[PreparedFile]()
            for found, result in group:
                job.advance()
                if isinstance(result, Decoded):
                    usable.append(PreparedFile(found, result.images))
                else:
                    rejected(_refusal(found, result))
            if usable:
                yield Examination(tuple(usable))


def _key(found: Found) -> tuple[str, str]:
    """Of an examination; a file that names neither patient nor study is one by itself."""
    patient, study = found.header.patient, found.header.study
    return (patient, study) if patient or study else ("", found.sha256)


def _order(found: Found) -> tuple[tuple[str, str], str]:
    # By content within an examination: nothing that renaming a file would change.
    return _key(found), found.sha256


def _refusal(found: Found, result: CacheRefused) -> Rejected:
    return Rejected(found.path, Reason(result.reason), result.detail)
