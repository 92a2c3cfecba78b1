"""The modules that all objects share: patient, study, series, equipment and SOP common.

They are in PS3.3, C.7 and C.12.1. Where highdicom puts the moment at which it runs, the time of the
prediction is put, so that the same prediction gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from client.objects.maker import LONGEST_NAME, MANUFACTURER, SCHEME, Maker, code_value
from client.objects.sources import OPTIONAL, TYPE_2, UNICODE, SourceImage
from client.objects.values import plain

_SERIES_NUMBERS: Final = {"SEG": 9001, "SR": 9002, "SC": 9003}
"""Far above those of scanners, so that viewers list the objects after the images."""
_TEXTS: Final = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
"""VRs that the character set holds for (PS3.5, 6.1.2.2)."""

# Permanently: it logs identifiers of what it is given.
logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)


def common(
    kind: str, sources: Sequence[SourceImage], content: bytes, made_by: Maker, when: datetime
) -> dict[str, Any]:
    """Arguments that all of highdicom's objects take.

    Args:
        kind: ``"SEG"``, ``"SR"`` or ``"SC"``.
        sources: of the object.
        content: what tells it from another one of the same sources.
        made_by: the model.
        when: of the content.
    """
    first = sources[0].dataset
    frame = str(first.get("FrameOfReferenceUID") or "")
    instances = [str(each.dataset.SOPInstanceUID) for each in sources]
    # Archives exist in which two patients' images have one UID.
    whose = str(first.PatientID or ""), str(first.StudyInstanceUID)
    return {
        # A series has one frame of reference (C.7.4.1), and the images' one may have several.
        "series_instance_uid": made_by.uid("series", kind, *whose, first.SeriesInstanceUID, frame),
        "series_number": _SERIES_NUMBERS[kind],
        "sop_instance_uid": made_by.uid("instance", kind, content, *whose, *instances),
        "instance_number": first.InstanceNumber,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": made_by.name,
        "software_versions": made_by.version,
        "device_serial_number": made_by.sha256,
        "series_description": made_by.series_description,
        "content_qualification": "RESEARCH",
        "content_date": when.date(),
        "content_time": when.time().replace(microsecond=0),
        "series_date": when.date(),
        "series_time": when.time().replace(microsecond=0),
        "specific_character_set": UNICODE,
        "coding_schemes": [
            CodingSchemeIdentificationItem(
                SCHEME,
                name="Words of studies, as they are written there",
                responsible_organization=MANUFACTURER,
            )
        ],
    }


def closed(made: Dataset, source: SourceImage, when: datetime) -> Dataset:
    """An object with patient and study of its first image, and with its times.

    Args:
        made: by highdicom; is changed.
        source: the first image.
        when: of the content.
    """
    for keyword in (*TYPE_2, *OPTIONAL):
        if keyword in source.dataset:
            made[keyword] = source.dataset[keyword]
    day, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = day, time
    for item in made.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in item:
            item.ContributionDateTime = day + time
    _name_characters(made)
    return made


def _name_characters(dataset: Dataset) -> None:
    """Name the character set again in each item that has more than ASCII.

    An item has that of the data set that it is in (PS3.5, 7.5.3), and may name its own. There are
    viewers whose parser takes Latin-1 in an item that does not: dcmjs 0.51 is one.
    """
    for element in dataset:
        if element.VR != "SQ":
            continue
        for item in element.value:
            _name_characters(item)
            if not all(str(each.value).isascii() for each in item if each.VR in _TEXTS):
                item.SpecificCharacterSet = UNICODE


def code_of(words: str) -> CodedConcept:
    """A private code for a study's words, which are its meaning."""
    return CodedConcept(code_value(words), SCHEME, label(words))


def label(words: str) -> str:
    """Words as an LO: without control characters, of at most 64 characters (PS3.5, 6.2)."""
    return plain(words)[:LONGEST_NAME].rstrip() or "?"


def references(sources: Sequence[SourceImage]) -> Items:
    """Items that name the images, for a Source Image Sequence (0008,2112)."""
    found = []
    for each in sources:
        item = Dataset()
        item.ReferencedSOPClassUID = each.dataset.SOPClassUID
        item.ReferencedSOPInstanceUID = each.dataset.SOPInstanceUID
        found.append(item)
    return Items(found)
