"""From a mask file to the classes of one image's pixels."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.dicom import DicomReading, Reason, Unusable, content, parse, translated
from client.data.masks.pictures import nifti_values, png_values
from client.data.masks.segmentation import SegFile, few
from client.data.masks.sources import MaskFile, MaskRules, Meaning

if TYPE_CHECKING:
    from pathlib import Path

    Layers = list[tuple[Meaning, NDArray[np.bool_]]]


def layers(mask: MaskFile, image: DicomReading, frame: int, shape: tuple[int, int]) -> Layers:
    """What a mask marks on one frame of an image, in its own words.

    Args:
        mask: as it was found.
        image: as it was read.
        frame: from 0.
        shape: rows and columns of the frame as decoded.

    Raises:
        Unusable: the mask cannot be read, changed meanwhile, or does not fit its image.
    """
    with translated("reading it", Reason.BAD_MASK):
        if mask.kind == "seg":
            segmentation = _segmentation(mask.file, mask.sha256)
            _require_shape(segmentation.shape, shape)
            return segmentation.layers(image, frame)
        if image.header.frames > 1:
            raise Unusable(
                Reason.MASK_SIZE, f"its image has {image.header.frames} frames: use DICOM SEG"
            )
        data = _bytes(mask.file, mask.sha256)
        values = png_values(data) if mask.kind == "png" else nifti_values(data, image.dataset)
        _require_shape(values.shape, shape)
        return [(int(value), values == value) for value in few(np.unique(values)) if value]


def classes_of(found: Layers, rules: MaskRules, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The class of each pixel, from 1, and 0 for none: ``(rows, columns)``.

    Where layers overlap, the class that is later in the study's order counts.

    Raises:
        Unusable: a layer that marks something is of no class.
    """
    mask = np.zeros(shape, np.uint8)
    for meaning, marks in found:
        place = rules.place(meaning)
        if place is not None:
            mask[marks] = np.maximum(mask[marks], place)
        elif marks.any():
            # A label is the file's own text, and is not repeated; a value is a number.
            what = f"value {meaning}" if isinstance(meaning, int) else "the label of a segment"
            raise Unusable(Reason.MASK_CLASS, f"{what} is no class of the study")
    return mask


@lru_cache(maxsize=1)  # the images of a series are decoded one after the other
def _segmentation(file: Path, sha256: str) -> SegFile:
    return SegFile.of(parse(_bytes(file, sha256)).dataset)


def _bytes(file: Path, sha256: str) -> bytes:
    data = content(file)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Unusable(Reason.UNREADABLE, "its mask changed while the folder was being read")
    return data


def _require_shape(found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise Unusable(
            Reason.MASK_SIZE,
            f"it has {found[0]} rows and {found[1]} columns; its image {wanted[0]} and {wanted[1]}",
        )
