"""Writes the mask of an image in the ways in which hospitals keep them.

A DICOM SEG names its images by their UIDs and its classes by segment label (PS3.3, C.8.20). A
NIfTI or PNG file belongs to the image whose path it has, and says a class by a value.
The same arguments give the same bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final, Literal

import numpy as np
from pydicom.dataset import Dataset

from simulations.hospitals.dicom_writer import Equipment, Plane, to_bytes
from simulations.hospitals.slices import Mask

MaskKind = Literal["seg", "seg-fractional", "nifti", "png"]

ENDINGS: Final[dict[MaskKind, str]] = {
    "seg": ".dcm",
    "seg-fractional": ".dcm",
    "nifti": "_seg.nii.gz",
    "png": ".png",
}
"""What the name of a file ends in, after the name of its image."""


def dicom_seg(
    images: Sequence[Dataset],
    masks: Sequence[Mask],
    labels: Mapping[int, str],
    uids: tuple[str, str, str],
    equipment: Equipment,
    *,
    fractional: bool = False,
) -> bytes:
    """A DICOM SEG about all slices of a series.

    Args:
        images: the slices, as data sets.
        masks: of each, ``(rows, columns)``, values from ``labels`` or 0.
        labels: segment label by value.
        uids: of the SEG's series, of itself and of its dimensions.
        equipment: who made it.
        fractional: with a probability for each pixel instead of a bit.
    """
    # Slow to import; most hospitals need neither.
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    known: dict[str, Any] = {"liver": codes.SCT.Liver, "lesion": codes.SCT.Lesion}
    descriptions = [
        SegmentDescription(
            segment_number=place,
            segment_label=label,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=known.get(label.lower(), codes.SCT.Tissue),
            algorithm_type="MANUAL",
        )
        for place, label in enumerate(labels.values(), start=1)
    ]
    bits = np.stack([np.stack(masks) == value for value in labels], axis=-1)
    series, instance, dimensions = uids
    made = Segmentation(
        source_images=images,
        pixel_array=bits.astype(np.float32) if fractional else bits.astype(np.uint8),
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=series,
        series_number=2,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer=equipment.manufacturer,
        manufacturer_model_name="Contour",
        software_versions=equipment.software,
        device_serial_number="1",
    )
    _without_today(made, images[0], dimensions)
    return to_bytes(made)


def _without_today(made: Dataset, image: Dataset, dimensions: str) -> None:
    """Replace what would differ each time: when it was made, and an identifier drawn at random."""
    for keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        setattr(made, keyword, image.StudyDate)
    for keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        setattr(made, keyword, image.StudyTime)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for item in made.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimensions
    for item in made.ContributingEquipmentSequence:
        item.ContributionDateTime = f"{image.StudyDate}{image.StudyTime}"


def nifti(mask: Mask, plane: Plane) -> bytes:
    """A NIfTI file of one slice, its axes in the order of ITK: along a row, then down."""
    from nibabel.nifti1 import Nifti1Image

    rows, columns = plane.spacing
    x, y, z = plane.position
    # DICOM's axes point to the left and the back, NIfTI's to the right and the front.
    affine = np.array(
        [[-columns, 0, 0, -x], [0, -rows, 0, -y], [0, 0, plane.thickness, z], [0, 0, 0, 1]], float
    )
    image = Nifti1Image(mask.T[:, :, None], affine)  # type: ignore[no-untyped-call]  # no types
    return gzip.compress(image.to_bytes(), mtime=0)


def png(mask: Mask, levels: Mapping[int, int]) -> bytes:
    """A grey PNG file; ``levels`` says which grey a value is written as, 0 stays 0."""
    from PIL import Image

    table = np.zeros(256, np.uint8)
    for value, level in levels.items():
        table[value] = level
    buffer = BytesIO()
    Image.fromarray(table[mask]).save(buffer, "PNG")
    return buffer.getvalue()
