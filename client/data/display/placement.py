"""Where an image lies in the study's: scaled to fit, or to a spacing, then cropped or padded.

An image is scaled by Pillow's antialiased bilinear filter, which PyTorch calls
``interpolate(mode="bilinear", antialias=True)``. Pillow works on one channel at a time in 32-bit
floating point and in a fixed order, so the result does not depend on threads. The same numbers
place an image and its mask, and all of Pillow's filters map the centres of pixels: both stay
aligned. A mask takes the nearest pixel, so no class appears at a border of two others; a lesion
that is narrower than one pixel of the study may disappear, and its image is used without it.

Pixels have a size in millimetres by Pixel Spacing (0028,0030), or else by Imager Pixel Spacing
(0018,1164), which is that at the detector (PS3.3, 10.7.1.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from client.data.dicom import Reason, Unusable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Size = tuple[int, int]
Spacing = tuple[float, float]
"""Millimetres from row to row, and from column to column."""

MOST_SCALED: Final = 2**26
"""Pixels of an image that was brought to a spacing, before it is cropped."""
_LEAST, _MOST = 1e-6, 1e6
"""Millimetres that a pixel may measure: beyond it the header is wrong."""


@dataclass(frozen=True)
class Placement:
    """How images of one size come into the study's size.

    Attributes:
        inner: height and width that they are scaled to.
        size: height and width of the study's images; what is missing around is zero.
    """

    inner: Size
    size: Size

    @classmethod
    def fitting(cls, shape: Size, size: Size) -> Placement:
        """Scaled to fit, keeping proportions: stretching would change the shape of organs."""
        if shape == size:
            return cls(size, size)
        (height, width), scale = shape, min(size[0] / shape[0], size[1] / shape[1])
        inner = (
            max(1, min(size[0], round(height * scale))),
            max(1, min(size[1], round(width * scale))),
        )
        return cls(inner, size)

    @classmethod
    def spaced(cls, shape: Size, size: Size, pixel: Spacing, spacing: Spacing) -> Placement:
        """Scaled from the size of its own pixels to another.

        Raises:
            Unusable: it would become far too large.
        """
        height, width = (
            max(1, round(side * own / wanted))
            for side, own, wanted in zip(shape, pixel, spacing, strict=True)
        )
        if height * width > MOST_SCALED:
            raise Unusable(
                Reason.TOO_LARGE, f"more than {MOST_SCALED >> 20} MiPixels in the study's spacing"
            )
        return cls((height, width), size)

    def image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """An image ``(channels, height, width)`` in [0, 1], in its place."""
        if image.shape[1:] == self.inner == self.size:
            return image
        canvas = np.zeros((len(image), *self.size), dtype=np.float32)
        for channel, filled in zip(image, canvas, strict=True):
            # Clipped: rounding in the filter may leave [0, 1] by a little.
            scaled = _resampled(channel, self.inner, Pillow.Resampling.BILINEAR)
            self._put(np.clip(scaled, 0, 1), filled)
        return canvas

    def mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask ``(height, width)`` in its place: each pixel takes the nearest one's class."""
        canvas = np.zeros(self.size, dtype=np.uint8)
        self._put(_resampled(mask, self.inner, Pillow.Resampling.NEAREST), canvas)
        return canvas

    def back(self, mask: NDArray[np.uint8], shape: Size) -> NDArray[np.uint8]:
        """A mask in the study's size, on the pixels of the image that it is of.

        The way back of :meth:`mask`: what was added around an image is dropped, and what was cut
        off is background. Each pixel takes the class of the nearest one.

        Args:
            mask: ``(height, width)``, of :attr:`size`.
            shape: rows and columns of the image, from which this placement was made.

        Returns:
            Classes ``(rows, columns)``.
        """
        (top, from_top), (left, from_left) = self._offsets()
        scaled = np.zeros(self.inner, dtype=np.uint8)
        part = mask[top : top + self.inner[0], left : left + self.inner[1]]
        scaled[from_top : from_top + part.shape[0], from_left : from_left + part.shape[1]] = part
        return _resampled(scaled, shape, Pillow.Resampling.NEAREST).astype(np.uint8, copy=False)

    def _put(self, scaled: NDArray[np.generic], canvas: NDArray[np.generic]) -> None:
        (top, from_top), (left, from_left) = self._offsets()
        part = scaled[from_top : from_top + self.size[0], from_left : from_left + self.size[1]]
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part

    def _offsets(self) -> list[tuple[int, int]]:
        """Of rows and of columns: where the image begins in the study's, and what is cut off."""
        return [
            (max(0, (whole - own) // 2), max(0, (own - whole) // 2))
            for own, whole in zip(self.inner, self.size, strict=True)
        ]


def _resampled(
    channel: NDArray[np.generic], inner: Size, how: Pillow.Resampling
) -> NDArray[np.generic]:
    height, width = inner
    source = Pillow.fromarray(np.ascontiguousarray(channel))
    return np.asarray(source.resize((width, height), how))


def pixel_spacing(dataset: Dataset, frame: int) -> Spacing:
    """Millimetres from row to row and from column to column of a frame.

    Raises:
        Unusable: the file does not say, or not in numbers above zero.
    """
    found = geometry(dataset, frame, "PixelMeasuresSequence", "PixelSpacing")
    found = found or _numbers(dataset, "ImagerPixelSpacing")
    if len(found) != 2 or not all(_LEAST <= each <= _MOST for each in found):
        said = "has no two numbers above 0" if found else "is missing"
        raise Unusable(Reason.NO_SPACING, f"Pixel Spacing (0028,0030) {said}")
    return found[0], found[1]


def orientation(dataset: Dataset, frame: int) -> tuple[NDArray[np.float64], ...] | None:
    """Unit vectors towards the next column and the next row, in patient coordinates (LPS).

    None where the file does not say (PS3.3, C.7.6.2.1.1), as most projections.
    """
    found = geometry(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    if len(found) != 6 or not all(map(math.isfinite, found)):
        return None
    vectors = np.array(found[:3]), np.array(found[3:])
    lengths = [float(np.linalg.norm(each)) for each in vectors]
    if min(lengths) < _LEAST:
        return None
    return tuple(each / length for each, length in zip(vectors, lengths, strict=True))


def geometry(dataset: Dataset, frame: int, group: str, keyword: str) -> tuple[float, ...]:
    """An element of a frame's geometry: of the file, or of its functional groups (C.7.6.16)."""
    places = [dataset]
    for sequence, number in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", frame),
    ):
        items = dataset.get(sequence) or []
        inside = items[number].get(group) if number < len(items) else None
        places += list(inside or [])[:1]
    return next((found for each in places if (found := _numbers(each, keyword))), ())


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    try:
        value = dataset.get(keyword)
        return tuple(float(each) for each in value) if value else ()
    except Exception as error:  # a value that cannot be converted raises whatever its reader does
        raise Unusable(Reason.UNDECODABLE, f"its {keyword} cannot be read") from error
