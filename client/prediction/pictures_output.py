"""Pictures of predictions: outlines of what was found, and why the model says what it says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset

from client.data.archive import Found
from client.prediction.dicom_output import DicomOutput
from client.prediction.intake import Examination
from client.prediction.scoring import Scores
from client.reasons.methods import Method, fitting, method_for
from client.reasons.page import Explained, render
from client.reasons.pictures import map_picture, outlines, overlay, png
from common.errors import ConsiliumError
from common.files import write_atomic
from common.models.networks import build_model, load_flat
from common.package.package import Package

FOLDER: Final = "pictures"
PAGE: Final = "pictures.html"
AUTOMATIC: Final = "auto"
MOST_ON_PAGE: Final = 40
"""Pictures on the page; all are in the folder."""
LEAST: Final = 256
"""Pixels of a picture's shorter side: a smaller image is enlarged."""


_UID: Final = re.compile(r"[0-9][0-9.]{0,63}")


class PicturesOutput:
    """Draws each image's outlines, and with a method why.

    Args:
        package: the model.
        out: the folder of all that is written.
        reasons: a method's name, or :data:`AUTOMATIC`; empty for outlines alone.

    Raises:
        ConsiliumError: there is no such method, or it does not fit the model.
    """

    def __init__(self, package: Package, out: Path, reasons: str) -> None:
        self._package, self._out, self._study = package, out, package.study
        self._method: Method | None = None
        if reasons:
            name = fitting(self._study)[0] if reasons == AUTOMATIC else reasons
            self._method = method_for(name, self._study)
        self._model = build_model(self._study)
        load_flat(self._model, package.weights)
        self._shown: list[Explained] = []
        self._drawn = 0

    def write(
        self,
        one: Examination,
        scores: Scores,
        sources: Sequence[Dataset | None],
        objects: DicomOutput | None,
    ) -> Counter[str]:
        """Draw an examination's images; gives why a picture could not be made, how often."""
        failed, place = Counter[str](), 0
        for file, source in zip(one.files, sources, strict=True):
            for frame, image in enumerate(file.images):
                instance = _file_name(file.found)
                try:
                    drawn = list(self._pictures(image.astype(np.float32), scores, place))
                except ConsiliumError as error:  # an image on which the network fails
                    failed[f"no picture: {error.what}"] += 1
                    drawn = []
                for name, number, output, picture, beside in drawn:
                    self._keep(f"{instance}.{frame + 1}.{name}{number}", picture)
                    if beside:
                        self._shown.append(
                            self._entry(file.found.path, scores, place, output, beside)
                        )
                    if objects is not None and source is not None:
                        failed.update(objects.picture(source, picture, f"{name}: {output}"[:60]))
                place += 1
        return failed

    def finish(self) -> tuple[Path, ...]:
        """Write the page; gives its path, if there is anything on it."""
        if not self._shown:
            return ()
        said = self._package.statement
        facts = [("model", self._package.name), ("package", self._package.sha256[:16])]
        height, width = self._study.data.image_size
        facts.append(("what you see", f"the image as the model sees it, {width} x {height} pixels"))
        facts += [("note", note) for note in (*said.warnings, *said.doubts)]
        if self._drawn > len(self._shown):
            part = f"the first {len(self._shown)} of {self._drawn} pictures; all are in {FOLDER}/"
            facts.append(("on this page", part))
        text = render(
            self._shown,
            title=said.title,
            method=self._method,
            facts=facts,
            outlined=self._study.task.classes if self._study.heads.dense else (),
        )
        path = self._out / PAGE
        write_atomic(path, text.encode(), mode=0o600)
        return (path,)

    def _pictures(
        self, image: NDArray[np.float32], scores: Scores, place: int
    ) -> Iterator[tuple[str, str, str, NDArray[np.uint8], bytes]]:
        """Of one image: a name, which output, what it is of, the picture, and as the page shows it.

        The last is empty where the page is full.
        """
        large = _enlarged(image)
        if scores.masks is not None:
            outlined = outlines(large, scores.masks[place])
            yield "outlines", "", "", outlined, png(outlined) if self._has_room else b""
        if self._method is None:
            return
        for output, name in self._study.task.explained(scores.numbers):
            values = self._method.of(self._model, self._study, torch.from_numpy(image), output)
            over = overlay(large, values, signed=self._method.signed)
            signed, unit, shown = self._method.signed, self._method.unit, b""
            if self._has_room:  # with its bar of colours a picture takes ten times as long
                shown = map_picture(large, values, signed=signed, unit=unit)
            yield self._method.name, f"-{output}", name, over, shown

    @property
    def _has_room(self) -> bool:
        return len(self._shown) < MOST_ON_PAGE

    def _entry(
        self, path: str, scores: Scores, place: int, output: str, picture: bytes
    ) -> Explained:
        columns = self._study.task.columns()
        said = tuple(
            (name, f"{value:.3f}" if value < 10 else f"{value:.0f}")
            for name, value in zip(columns, scores.each[place], strict=True)
        )
        return Explained(path, said, picture, output)

    def _keep(self, name: str, picture: NDArray[np.uint8]) -> None:
        self._drawn += 1
        (self._out / FOLDER).mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._out / FOLDER / f"{name}.png", png(picture), mode=0o600)


def _file_name(found: Found) -> str:
    """What an image's pictures are called.

    By its SOPInstanceUID, if it is one: a header may say anything, also a path. And by its content:
    two patients' images may have one UID.
    """
    instance = found.header.instance
    content = found.sha256[:16]
    return f"{instance}.{content}" if _UID.fullmatch(instance) else content


def _enlarged(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image (channels, height, width), grey, with a shorter side that can be looked at."""
    grey = np.asarray(image.mean(axis=0), dtype=np.float32)
    factor = -(-LEAST // min(grey.shape))
    if factor == 1:
        return grey
    height, width = grey.shape
    large = Pillow.fromarray(grey).resize(
        (width * factor, height * factor), Pillow.Resampling.BICUBIC
    )
    return np.asarray(np.clip(np.asarray(large), 0.0, 1.0), dtype=np.float32)
