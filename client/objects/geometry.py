"""Where images lie in the patient (PS3.3, C.7.6.2 and C.7.6.16.2), as one stack of parallel planes.

Numbers that are written differently from image to image but mean the same are made one: a stack
has one orientation and one spacing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.valuerep import format_number_as_ds

from client.data.dicom import Unusable
from client.data.display.placement import Spacing, geometry, orientation, pixel_spacing
from client.objects.maker import Unmade
from client.objects.values import cleaned, read

_PARALLEL: Final = 1e-3
"""Difference of a direction's parts up to which images lie in parallel: 0.06 degrees."""
_SQUARE: Final = 1e-2
"""Cosine between rows and columns, from which on they are not at right angles."""
_SAME_SPACING: Final = 1e-3
"""Relative difference of spacings that are one."""
_APART: Final = 1e-3
"""Millimetres between planes that are two."""
_MEASURES: Final = "PixelMeasuresSequence"
_FAR: Final = 1e6
"""Millimetres from the origin, beyond which a header is wrong."""


@dataclass(frozen=True)
class Geometry:
    """A stack of parallel planes, one a frame.

    Attributes:
        positions: of the middle of each frame's first pixel, ``(frames, 3)``, in mm (LPS).
        directions: towards the next column and the next row: six cosines.
        spacing: in mm from row to row and from column to column.
        thickness: of a plane in mm; None where nothing says it.
    """

    positions: NDArray[np.float64]
    directions: tuple[float, ...]
    spacing: Spacing
    thickness: float | None

    def write(self, dataset: Dataset, first: int, frames: int) -> None:
        """Write how some frames lie: as an image of one frame has it, and in functional groups.

        Args:
            dataset: is changed.
            first: its first frame, in the stack.
            frames: how many it has.
        """
        own = self.positions[first : first + frames]
        measures, directions = Dataset(), Dataset()
        for each in (dataset, measures):
            each.PixelSpacing = decimals(self.spacing)
            each.SliceThickness = decimals([self.thickness])[0] if self.thickness else None
        for each in (dataset, directions):
            each.ImageOrientationPatient = decimals(self.directions)
        planes = []
        for position in own:
            plane = Dataset()
            plane.ImagePositionPatient = decimals(position)
            planes.append(_grouped("PlanePositionSequence", plane))
        dataset.ImagePositionPatient = decimals(own[0])
        if not self.thickness:
            del measures.SliceThickness
        shared = _grouped("PixelMeasuresSequence", measures)
        shared.PlaneOrientationSequence = Items([directions])
        dataset.SharedFunctionalGroupsSequence = Items([shared])
        dataset.PerFrameFunctionalGroupsSequence = Items(planes)


def geometry_of(sources: Sequence[Dataset], frames: Sequence[int]) -> Geometry | None:
    """How images lie; None where one does not say.

    Args:
        sources: as read, of one frame of reference.
        frames: of each.

    Raises:
        Unmade: they are no stack of parallel planes, or two are in one place.
    """
    places = [
        (each, frame) for each, count in zip(sources, frames, strict=True) for frame in range(count)
    ]
    found = [_plane(*each) for each in places]
    planes = [each for each in found if each is not None]
    if len(planes) < len(found):
        return None
    positions = np.array([position for position, _, _ in planes])
    directions, spacings = (np.array([plane[part] for plane in planes]) for part in (1, 2))
    if np.abs(directions - directions[0]).max() > _PARALLEL:
        raise Unmade("they are not parallel to each other")
    if np.abs(spacings / spacings[0] - 1).max() > _SAME_SPACING:
        raise Unmade("they differ in their Pixel Spacing (0028,0030)")
    heights = np.sort(positions @ np.cross(directions[0][:3], directions[0][3:]))
    gaps = np.diff(heights)
    if len(gaps) and gaps.min() < _APART:
        raise Unmade("two of them are in one place, as in a series over time")
    return Geometry(
        positions,
        tuple(map(float, directions[0])),
        (float(spacings[0][0]), float(spacings[0][1])),
        _thickness(sources[0]) or (float(np.median(gaps)) if len(gaps) else None),
    )


def pixel_spacing_of(source: Dataset) -> Spacing | None:
    """Pixel Spacing (0028,0030) of an image; None where there is none that is valid.

    Imager Pixel Spacing (0018,1164) is that at the detector, and not meant.
    """
    try:
        stated = geometry(source, 0, _MEASURES, "PixelSpacing")
        return pixel_spacing(source, 0) if stated else None
    except Unusable:
        return None


_Plane = tuple[tuple[float, ...], NDArray[np.float64], Spacing]


def _plane(source: Dataset, frame: int) -> _Plane | None:
    """Position, directions and spacing of a frame; None where one is missing or is none."""
    try:
        position = geometry(source, frame, "PlanePositionSequence", "ImagePositionPatient")
        directions = orientation(source, frame)
        if not geometry(source, frame, _MEASURES, "PixelSpacing"):
            return None
        spacing = pixel_spacing(source, frame)
    except Unusable:
        return None
    if directions is None or abs(float(directions[0] @ directions[1])) > _SQUARE:
        return None
    if len(position) != 3 or not all(abs(each) <= _FAR for each in position):
        return None
    return position, np.concatenate(directions), spacing


def _thickness(source: Dataset) -> float | None:
    """Slice Thickness (0018,0050), of the image or of its shared functional groups."""
    places = [source]
    for keyword in ("SharedFunctionalGroupsSequence", "PixelMeasuresSequence"):
        inside = read(places[-1], keyword)
        places += list(inside)[:1] if isinstance(inside, Items) else []
    found = (float(str(cleaned(each, "SliceThickness") or 0)) for each in places)
    return next((each for each in found if 0 < each <= _FAR), None)


def decimals(numbers: Iterable[float]) -> list[str]:
    """Values of a DS: at most 16 characters (PS3.5, 6.2); a minus zero is a zero."""
    return [format_number_as_ds(float(each) + 0.0) for each in numbers]


def _grouped(sequence: str, item: Dataset) -> Dataset:
    group = Dataset()
    setattr(group, sequence, Items([item]))
    return group
