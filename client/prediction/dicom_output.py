"""DICOM objects of predictions, beside the tables: segmentations, a report, and pictures.

They are written into a folder and never sent: who wants them in an archive imports them there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.data.dicom import Unusable
from client.objects.capture import capture
from client.objects.maker import Maker, Unmade
from client.objects.report import report
from client.objects.segmentation import segmentation
from client.objects.values import text
from client.prediction.intake import Examination, shape_of
from client.prediction.scoring import Scores
from common.files import write_atomic
from common.package.package import Package

FOLDER: Final = "dicom"


class Masked(NamedTuple):
    """An image's header, and its masks (frames, height, width) at the study's size. Sensitive."""

    header: Dataset
    masks: NDArray[np.uint8]


class DicomOutput:
    """Writes the objects of one package.

    Args:
        package: the model.
        out: the folder of all that is written.
        when: the time that each object bears.
    """

    def __init__(self, package: Package, out: Path, when: datetime) -> None:
        self._study, self._folder, self._when = package.study, out / FOLDER, when
        self._maker = Maker(
            package.name[-64:], version("consilium"), package.sha256, when.isoformat()
        )

    def write(
        self, one: Examination, scores: Scores, sources: Sequence[Dataset | None]
    ) -> Iterator[str]:
        """Write an examination's segmentations and report.

        Yields:
            Why an object could not be made, for each that could not.
        """
        if scores.masks is not None:
            for series in self._series(one, scores.masks, sources):
                yield from self._segment(series)
        known = [each for each in sources if each is not None]
        try:
            made = report(known, scores.findings, self._maker, when=self._when)
            self._save("SR", made)
        except Unmade as verdict:
            yield f"no report: {verdict.reason}"

    def picture(self, source: Dataset, picture: NDArray[np.uint8], title: str) -> Iterator[str]:
        """Write a picture of an image as secondary capture.

        Args:
            source: header of the image.
            picture: uint8 (rows, columns, 3).
            title: what it shows.
        """
        try:
            self._save("SC", capture(source, picture, self._maker, title, when=self._when))
        except Unmade as verdict:
            yield f"no picture: {verdict.reason}"

    def _series(
        self, one: Examination, masks: NDArray[np.uint8], sources: Sequence[Dataset | None]
    ) -> Iterator[Sequence[Masked]]:
        """By Series Instance UID: each file's header and masks."""
        ends = accumulate(len(each.images) for each in one.files)
        groups = defaultdict[str, list[Masked]](list)
        for file, source, end in zip(one.files, sources, ends, strict=True):
            if source is not None:
                masked = Masked(source, masks[end - len(file.images) : end])
                groups[text(source, "SeriesInstanceUID")].append(masked)
        yield from groups.values()

    def _segment(self, series: Sequence[Masked]) -> Iterator[str]:
        """One object for a series; where that cannot be, one for each of its files."""
        try:
            made = segmentation(
                [each.header for each in series],
                np.concatenate([self._back(each) for each in series]),
                self._study.task.classes,
                self._maker,
                when=self._when,
            )
            if made is not None:
                self._save("SEG", made)
        except (Unmade, ValueError) as verdict:
            # Images of several sizes cannot be in one object, nor can projections.
            if len(series) > 1:
                for each in series:
                    yield from self._segment([each])
            else:
                why = verdict.reason if isinstance(verdict, Unmade) else "its size is not clear"
                yield f"no segmentation: {why}"

    def _back(self, masked: Masked) -> NDArray[np.uint8]:
        """Masks at the study's size on the pixels of their image."""
        header, shape = masked.header, shape_of(self._study)
        try:
            size = int(text(header, "Rows")), int(text(header, "Columns"))
            return np.stack(
                [
                    shape.placement(header, frame, size).back(mask, size)
                    for frame, mask in enumerate(masked.masks)
                ]
            )
        except Unusable as verdict:
            raise Unmade("it says no size of its pixels") from verdict

    def _save(self, kind: str, made: Dataset) -> None:
        buffer = BytesIO()
        made.save_as(buffer, enforce_file_format=True)  # PS3.10
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{kind}.{made.SOPInstanceUID}.dcm"
        write_atomic(path, buffer.getvalue(), mode=0o600)
