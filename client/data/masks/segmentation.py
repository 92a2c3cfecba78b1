"""DICOM SEG (PS3.3, A.51 and C.8.20): which frames are of which image, and what they mark.

BINARY, FRACTIONAL (marked from one half on) and LABELMAP. Frames that a file leaves out are empty
(C.7.6.16.1.2): an image that the file names and has no frame of is an image without marks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import pixel_array
from pydicom.uid import UID, SegmentationStorage

from client.data.dicom import LONGEST, Reason, Unusable, quiet
from client.data.display.placement import orientation
from client.data.pseudonyms import normal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydicom.dataset import Dataset

    from client.data.dicom import DicomReading
    from client.data.masks.sources import Meaning

CLASSES: Final = (SegmentationStorage, UID("1.2.840.10008.5.1.4.1.1.66.7"))
"""Segmentation Storage and Label Map Segmentation Storage."""
MOST_INSTANCES: Final = 2**14
"""Images that one file names: what is remembered of it must be bounded."""
MOST_REFERENCES: Final = 2**20
"""Frames and their references that are looked at in one file."""
MOST_VALUES: Final = 1000
"""Different values in one mask."""
_ALIKE: Final = 0.99
"""Cosine of the angle between directions that count as one: about 8 degrees."""


def is_segmentation(dataset: Dataset) -> bool:
    """Whether a DICOM file holds masks."""
    return dataset.get("SOPClassUID") in CLASSES


class Reference(NamedTuple):
    """What one frame marks: a segment, of an image by its UID, and of its frame there, from 1.

    A frame of 0 is the whole image.
    """

    frame: int
    segment: int
    instance: str
    of_frame: int


def instances(dataset: Dataset) -> frozenset[str]:
    """The SOPInstanceUIDs that a file says it is of.

    Raises:
        Unusable: it names none, or very many, or does not lie on them.
    """
    found = _listed(dataset) | {each.instance for each in _references(dataset)}
    if not found:
        raise Unusable(Reason.NO_IMAGE, "it does not say which images it is of")
    if len(found) > MOST_INSTANCES or max(map(len, found)) > LONGEST:
        raise Unusable(Reason.TOO_LARGE, f"it names more than {MOST_INSTANCES} images")
    return found


@dataclass(frozen=True)
class SegFile:
    """A file that was read, for all of its images in turn.

    Attributes:
        dataset: its data set.
        labels: of its segments, by their numbers.
        references: what its frames are of, by the image's UID.
    """

    dataset: Dataset = field(repr=False)
    labels: Mapping[int, str] = field(repr=False)
    references: Mapping[str, list[Reference]] = field(repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> SegFile:
        """Read all but the pixels."""
        labels = {
            int(each.SegmentNumber): normal(str(each.get("SegmentLabel", "")))
            for each in dataset.get("SegmentSequence") or []
        }
        references: defaultdict[str, list[Reference]] = defaultdict(list)
        for each in _references(dataset):
            references[each.instance].append(each)
        return cls(dataset, labels, references)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.dataset.Rows), int(self.dataset.Columns)

    def layers(self, image: DicomReading, frame: int) -> list[tuple[Meaning, NDArray[np.bool_]]]:
        """What is marked on one frame of an image, by the labels of segments.

        Args:
            image: as it was read.
            frame: of the image, from 0.

        Raises:
            Unusable: the file contradicts itself or the image.
        """
        self._require_direction(image, frame)
        marked: dict[int, NDArray[np.bool_]] = {}
        for each in self.references.get(image.header.instance, ()):
            if not each.of_frame and image.header.frames > 1:
                raise Unusable(
                    Reason.BAD_MASK, "it does not say which frames of its image it marks"
                )
            if (each.of_frame or 1) != frame + 1:
                continue
            for segment, marks in self._marks(each).items():
                marked[segment] = marked[segment] | marks if segment in marked else marks
        undescribed = sorted(marked.keys() - self.labels.keys())
        if undescribed:
            raise Unusable(Reason.BAD_MASK, f"its segment {undescribed[0]} is not described")
        return [(self.labels[segment], marks) for segment, marks in sorted(marked.items())]

    def _marks(self, reference: Reference) -> dict[int, NDArray[np.bool_]]:
        pixels = self._frame(reference.frame)
        kind = str(self.dataset.SegmentationType).strip().upper()
        if kind == "LABELMAP":
            return {int(value): pixels == value for value in few(np.unique(pixels)) if value}
        top = int(self.dataset.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
        return {reference.segment: pixels >= top / 2}

    def _frame(self, number: int) -> NDArray[Any]:
        """The pixels of a frame as stored."""
        if (
            self.dataset.get("BitsAllocated") == 1
            and not self.dataset.file_meta.TransferSyntaxUID.is_compressed
        ):
            # Frames of bits follow each other without a gap (PS3.5, 8.1.1), so one may begin inside
            # a byte, where pydicom reads it wrongly.
            rows, columns = self.shape
            first = number * rows * columns
            data = self.dataset.PixelData[first // 8 : -(-(first + rows * columns) // 8)]
            bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
            return bits[first % 8 :][: rows * columns].reshape(rows, columns)
        with quiet():
            return pixel_array(self.dataset, index=number)

    def _require_direction(self, image: DicomReading, frame: int) -> None:
        """Require the image's rows and columns, where both files say how theirs run."""
        own, wanted = orientation(self.dataset, 0), orientation(image.dataset, frame)
        if own and wanted and min(float(a @ b) for a, b in zip(own, wanted, strict=True)) < _ALIKE:
            raise Unusable(Reason.BAD_MASK, "it is turned or mirrored against its image")


def few(values: NDArray[Any]) -> NDArray[Any]:
    """The values of a mask, if they can be classes.

    Raises:
        Unusable: they are too many to be looked at one by one.
    """
    if len(values) > MOST_VALUES:
        raise Unusable(Reason.MASK_CLASS, f"it has more than {MOST_VALUES} different values")
    return values


def _listed(dataset: Dataset) -> frozenset[str]:
    """The images of C.12.4, which may have no frame."""
    return frozenset(
        normal(str(each.ReferencedSOPInstanceUID))
        for series in dataset.get("ReferencedSeriesSequence") or []
        for each in series.get("ReferencedInstanceSequence") or []
    )


def _references(dataset: Dataset) -> list[Reference]:
    """What each frame is of."""
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    alone = _listed(dataset)
    found: list[Reference] = []
    for frame, group in enumerate(groups):
        segment = _segment(group) or _segment(shared)
        sources = list(_sources(group)) or list(_sources(shared))
        # Files of one image often say so once.
        if not sources and len(alone) == 1:
            sources = [(next(iter(alone)), 0)]
        if not sources:
            # Left out, what it marks would be taken for background on every image.
            raise Unusable(Reason.BAD_MASK, "a frame does not say which image it marks")
        found += (Reference(frame, segment, *source) for source in sources)
        if len(found) > MOST_REFERENCES:
            raise Unusable(Reason.TOO_LARGE, f"more than {MOST_REFERENCES >> 20} Mi references")
    return found


def _sources(group: Dataset) -> Iterator[tuple[str, int]]:
    for derivation in group.get("DerivationImageSequence") or []:
        for source in derivation.get("SourceImageSequence") or []:
            if str(source.get("SpatialLocationsPreserved", "")).strip().upper() == "NO":
                raise Unusable(
                    Reason.BAD_MASK,
                    "Spatial Locations Preserved (0028,135A) is NO: it does not lie on its images",
                )
            uid = normal(str(source.ReferencedSOPInstanceUID))
            numbers = source.get("ReferencedFrameNumber")
            if numbers is None:
                yield uid, 0
            else:
                several = numbers if hasattr(numbers, "__iter__") else [numbers]
                yield from ((uid, int(number)) for number in several)


def _segment(group: Dataset) -> int:
    return int(_first(group, "SegmentIdentificationSequence").get("ReferencedSegmentNumber", 0))


def _first(dataset: Dataset, sequence: str) -> Any:  # noqa: ANN401 - pydicom's data set, or an empty one
    return next(iter(dataset.get(sequence) or []), {})
