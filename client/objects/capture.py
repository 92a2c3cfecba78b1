"""A Secondary Capture Image of a picture that was drawn for people (PS3.3, A.8.1 and C.8.6).

The masks are colours in it, and nothing is written on it: what it is and what it is not for is in
its header. It names the image that it was drawn of (C.7.6.1.1.4 and C.12.2).
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from client.data.dicom import DRAWN
from client.objects.maker import RESEARCH, Maker, Unmade
from client.objects.modules import closed, common, label, references
from client.objects.sources import MOST, SourceImage, accepted, made_of_these
from client.objects.values import plain


def capture(
    source: Dataset,
    picture: NDArray[np.uint8],
    made_by: Maker,
    title: str,
    *,
    when: datetime,
) -> Dataset:
    """One picture in colour, uncompressed.

    Args:
        source: the image that it was drawn of, as read, with or without pixels.
        picture: ``(rows, columns, 3)``, red, green and blue.
        made_by: the model.
        title: what it shows, in a few words.
        when: of the content. It is in the object but not in its UID: the caller gives one that is
            the same when the same is predicted again.

    Returns:
        The data set with its file meta information.

    Raises:
        Unmade: no valid object can be made of this image.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size or max(picture.shape) > MOST:
        raise Unmade("the picture is not one of rows, columns and three colours")
    (found,) = accepted([source])
    content = f"{picture.shape}{title}".encode() + np.ascontiguousarray(picture).tobytes()
    with made_of_these():
        made = SCImage.from_ref_dataset(
            ref_dataset=found.dataset,
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            # Required there, and replaced below: it may be empty (C.7.6.1.1.1).
            patient_orientation=("L", "P"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **common("SC", [found], content, made_by, when),
        )
    made.ImageType = [*made.ImageType, DRAWN]
    made.PatientOrientation = found.dataset.PatientOrientation
    made.Laterality = found.dataset.Laterality
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = made.ContentDate, made.ContentTime
    _say_burned_in(made, source)
    made.DerivationDescription = plain(f"{label(title)}, drawn by a model. {RESEARCH}")
    made.ImageComments = plain(f"{title}. {RESEARCH}")
    _name_source(made, found)
    return closed(made, found, when)


def _say_burned_in(made: Dataset, source: Dataset) -> None:
    """A picture has what is burned into its image; what the image does not say stays unsaid."""
    said = str(source.get("BurnedInAnnotation") or "").strip().upper()
    if "BurnedInAnnotation" in made:
        del made.BurnedInAnnotation
    if said in ("YES", "NO"):
        made.BurnedInAnnotation = said


def _name_source(made: Dataset, source: SourceImage) -> None:
    made.SourceImageSequence = references([source])
    made.SourceImageSequence[0].PurposeOfReferenceCodeSequence = Items(
        [CodedConcept.from_code(codes.cid7202.SourceImageForImageProcessingOperation)]
    )
    series = Dataset()
    series.SeriesInstanceUID = source.dataset.SeriesInstanceUID
    series.ReferencedInstanceSequence = references([source])
    made.ReferencedSeriesSequence = Items([series])
