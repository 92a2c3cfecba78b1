"""The images that an object is of, brought to what the Standard allows: the rest is left out.

An object belongs to the patient and study of its images (PS3.3, C.7.1 and C.7.2) and lies in their
frame of reference (C.7.4.1). A real file's header may be wrong in any element, so a data set of
its own is made of those that are needed: text in Unicode, each value valid, missing ones empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from client.data.dicom import NO_VERDICT, Unusable, quiet
from client.objects.geometry import Geometry, decimals, geometry_of, pixel_spacing_of
from client.objects.maker import Unmade
from client.objects.values import cleaned, copied, patient_orientation, read, text, uid

UNICODE: Final = "ISO_IR 192"
"""Specific Character Set (0008,0005) of every object: UTF-8 holds the names of all others."""
TYPE_2: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"),
)
"""Of patient and study: present in every object, empty where the image has no valid one."""
OPTIONAL: Final = (
    *("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID"),
    *("PatientBirthTime", "PatientAge", "PatientSize", "PatientWeight"),
    *("IssuerOfAccessionNumberSequence", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)
"""Of patient and study: present where the image has a valid one. Free texts about the patient and
names of more staff are not copied."""
_EQUIPMENT: Final = ("Manufacturer", "ManufacturerModelName", "Modality")
_FRAME_OF_REFERENCE: Final = ("FrameOfReferenceUID", "PositionReferenceIndicator")
_UIDS: Final = {
    "SOPInstanceUID": "(0008,0018)",
    "StudyInstanceUID": "(0020,000D)",
    "SeriesInstanceUID": "(0020,000E)",
    "SOPClassUID": "(0008,0016)",
}
MOST: Final = 2**16 - 1
"""Rows and columns: what a US can say (PS3.5, 6.2). Also frames."""


@dataclass(frozen=True)
class SourceImage:
    """An image as an object may name it.

    Attributes:
        dataset: identifiers, patient, study and size; valid, and without pixels. Sensitive.
        frames: how many.
    """

    dataset: Dataset = field(repr=False)
    frames: int


def accepted(sources: Sequence[Dataset]) -> list[SourceImage]:
    """The images, each with what an object takes over.

    Args:
        sources: as read, with or without pixels.

    Raises:
        Unmade: there are none, one lacks a valid identifier, one is there twice, or they are of
            several studies or patients.
    """
    if not sources:
        raise Unmade("there are no images")
    found = [_accepted(each) for each in sources]
    datasets = [each.dataset for each in found]
    if len({each.StudyInstanceUID for each in datasets}) > 1:
        raise Unmade("they are of several studies")
    if len({str(each.PatientID) for each in datasets}) > 1:
        raise Unmade("they are of several patients")
    if len({each.SOPInstanceUID for each in datasets}) < len(datasets):
        raise Unmade("two of them have the same SOPInstanceUID (0008,0018)")
    return found


def _accepted(source: Dataset) -> SourceImage:
    made = Dataset()
    for keyword, tag in _UIDS.items():
        if not (value := uid(source, keyword)):
            state = "missing" if read(source, keyword) in (None, "") else "not valid"
            raise Unmade(f"the {keyword} {tag} is {state}")
        setattr(made, keyword, value)
    if "Image" not in UID(made.SOPClassUID).keyword:
        raise Unmade("the SOPClassUID (0008,0016) is not that of an image")
    made.SpecificCharacterSet = UNICODE
    for keyword in TYPE_2:
        setattr(made, keyword, "")
    copied(source, made, (*TYPE_2, *OPTIONAL, *_EQUIPMENT, *_FRAME_OF_REFERENCE))
    made.Rows, made.Columns = _count(source, "Rows"), _count(source, "Columns")
    made.InstanceNumber = _count(source, "InstanceNumber", missing=1)
    # Type 2C of image and series: for most images nothing else says it, and it may be empty.
    made.PatientOrientation = patient_orientation(source)
    made.Laterality = cleaned(source, "Laterality")
    _copy_compression(source, made)
    return SourceImage(made, _count(source, "NumberOfFrames", missing=1))


def _count(source: Dataset, keyword: str, *, missing: int = 0) -> int:
    value = text(source, keyword)
    try:
        number = int(value) if value else missing
    except ValueError:
        number = missing
    if not 0 < number <= MOST and not missing:
        raise Unmade(f"the {keyword} are missing or not a number of pixels")
    return number if 0 < number <= MOST else missing


def _copy_compression(source: Dataset, made: Dataset) -> None:
    """That pixels went through lossy compression holds of what is derived (C.7.6.1.1.5)."""
    ratio = cleaned(source, "LossyImageCompressionRatio")
    method = cleaned(source, "LossyImageCompressionMethod")
    made.LossyImageCompression = "00"
    if text(source, "LossyImageCompression") == "01" and ratio and method:
        made.LossyImageCompression = "01"
        made.LossyImageCompressionRatio, made.LossyImageCompressionMethod = ratio, method


def of_one_series(sources: Sequence[Dataset]) -> tuple[list[SourceImage], Geometry | None]:
    """The images of one series, placed in the patient where they say how they lie.

    Returns:
        The images, and how they lie; None for one frame without a place in the patient.

    Raises:
        Unmade: as :func:`accepted`, or they are of several series or sizes, or do not lie in one
            stack.
    """
    found = accepted(sources)
    datasets = [each.dataset for each in found]
    if len({each.SeriesInstanceUID for each in datasets}) > 1:
        raise Unmade("they are of several series")
    if len({(each.Rows, each.Columns) for each in datasets}) > 1:
        raise Unmade("they differ in size")
    if len({each.SOPClassUID for each in datasets}) > 1:
        raise Unmade("they are of several SOP classes")
    if len(found) > 1 and any(each.frames > 1 for each in found):
        raise Unmade("there are several images, and one has more than one frame")
    if len({each.get("FrameOfReferenceUID") for each in datasets}) > 1:
        raise Unmade("they have several frames of reference")
    spacing = pixel_spacing_of(sources[0])
    if spacing:
        for each in datasets:
            each.PixelSpacing = decimals(spacing)
    place = None
    if "FrameOfReferenceUID" in datasets[0]:
        place = geometry_of(sources, [each.frames for each in found])
    if place is None and (len(found) > 1 or found[0].frames > 1):
        raise Unmade("there are several images or frames, and one does not say where it lies")
    return found, place


@contextmanager
def made_of_these() -> Iterator[None]:
    """Turn what a library refuses into a verdict, and keep what it says: it quotes values.

    Raises:
        Unmade: for all that is raised, but what says nothing about the images.
    """
    try:
        with quiet():
            yield
    except (Unmade, *NO_VERDICT):
        raise
    except Unusable as error:
        raise Unmade(error.detail or str(error.reason)) from error
    except BaseException as error:
        raise Unmade(f"making the object ended in {type(error).__name__}") from error
