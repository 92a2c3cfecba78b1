"""A DICOM SEG of predicted masks (PS3.3, A.51 and C.8.20): BINARY, a segment for each class.

A segment's number is that of its class, so a class that was found nowhere has a segment without
frames, and an image on which nothing was found is named and has no frame (C.7.6.16.1.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from client.objects.geometry import Geometry
from client.objects.maker import MANUFACTURER, RESEARCH, Maker, Unmade
from client.objects.modules import closed, code_of, common, label
from client.objects.sources import SourceImage, made_of_these, of_one_series
from common.palette import colour_of, rgb


def segmentation(
    sources: Sequence[Dataset],
    masks: NDArray[np.uint8],
    classes: tuple[str, ...],
    made_by: Maker,
    *,
    when: datetime,
) -> Dataset | None:
    """One SEG for the images of a series.

    Args:
        sources: images of one frame and of one series; or one image of several frames; or one
            without a place in the patient. As read, with or without pixels.
        masks: ``(frames, rows, columns)``, in the sources' order and on their pixels: 0 is
            background, k the k-th class.
        classes: in the study's words.
        made_by: the model.
        when: of the content. It is in the object but not in its UID: the caller gives one that is
            the same when the same is predicted again.

    Returns:
        The data set with its file meta information; None where nothing is marked.

    Raises:
        Unmade: no valid object can be made of these images.
    """
    found, place = of_one_series(sources)
    _require_fit(found, masks, classes)
    if not masks.any():
        return None
    content = np.ascontiguousarray(masks).tobytes() + "\0".join(classes).encode()
    images, described = _placed(found, place), _segments(classes, made_by)
    with made_of_these():
        made = Segmentation(
            source_images=images,
            pixel_array=masks,
            segmentation_type="BINARY",
            segment_descriptions=described,
            content_label="PREDICTION",
            content_description=RESEARCH,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **common("SEG", found, content, made_by, when),
        )
    _settle(made, found[0], made_by)
    return closed(made, found[0], when)


def _require_fit(
    found: Sequence[SourceImage], masks: NDArray[np.uint8], classes: Sequence[str]
) -> None:
    first = found[0].dataset
    frames = sum(each.frames for each in found)
    if masks.shape != (frames, first.Rows, first.Columns):
        raise Unmade("the masks have another size or number than the images")
    if masks.size and int(masks.max()) > len(classes):
        raise Unmade("the masks have a value that is no class")


def _placed(found: Sequence[SourceImage], place: Geometry | None) -> list[Dataset]:
    """The images as highdicom reads them: how they lie, and in functional groups as well.

    It asks the SOP class, not the image, whether there are several frames.
    """
    first = 0
    for each in found:
        dataset = each.dataset
        dataset.NumberOfFrames = each.frames
        if place is not None:
            place.write(dataset, first, each.frames)
            first += each.frames
            continue
        # It requires one of a CT or MR image, which without a place in it has no use for it.
        if "FrameOfReferenceUID" not in dataset:
            dataset.FrameOfReferenceUID = ""
        measures, group = Dataset(), Dataset()
        if "PixelSpacing" in dataset:
            measures.PixelSpacing = dataset.PixelSpacing
        group.PixelMeasuresSequence = Items([measures] if len(measures) else [])
        dataset.SharedFunctionalGroupsSequence = Items([group])
    return [each.dataset for each in found]


def _segments(classes: Sequence[str], made_by: Maker) -> list[SegmentDescription]:
    algorithm = AlgorithmIdentificationSequence(
        name=made_by.name,
        family=codes.cid7162.ArtificialIntelligence,
        version=made_by.version,
        source=MANUFACTURER,
        parameters=dict([made_by.parameters.split("=", 1)]),
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=label(words),
            # Whether a word means an organ or a lesion is not known; tools take this for either.
            segmented_property_category=codes.cid7150.Tissue,
            segmented_property_type=code_of(words),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=CIELabColor.from_rgb(*rgb(colour_of(number))),
        )
        for number, words in enumerate(classes, start=1)
    ]


def _settle(made: Dataset, source: SourceImage, made_by: Maker) -> None:
    """Replace an identifier drawn at random, and remove what has no value."""
    dimensions = made_by.uid("dimensions", made.SOPInstanceUID)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for item in made.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimensions
    if not source.dataset.get("FrameOfReferenceUID"):
        for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
            made.pop(keyword, None)
    if "ImagePositionPatient" not in source.dataset:
        made.PatientOrientation = source.dataset.PatientOrientation
    shared = made.SharedFunctionalGroupsSequence[0]
    if not shared.get("PixelMeasuresSequence"):
        shared.pop("PixelMeasuresSequence", None)
