"""One DICOM file: whether it is one, what its header says, and why it cannot be used.

Follows PS3.10 (the file format) and PS3.3, C.7 (patient, study, image). A file that is
not fit for use raises :class:`Unusable` with a reason from a closed list and a detail
that was composed here: pydicom's own warnings and exceptions quote values from the file,
so warnings stay inside :func:`quiet`, and their loggers are silent in a site's process.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING, Final

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from client.data.parallel import Elsewhere
from client.data.pseudonyms import normal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import FileDataset

MOST_BYTES: Final = 2**30
"""Of a file that is opened at all: 1 GiB."""
SMALL: Final = 2**18
"""Bytes of a file that may be opened in the site's own process: 256 KiB."""
LONGEST: Final = 1024
"""Characters that a value of the header may have; the Standard's longest identifier has 64."""
PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PREFIX: Final = slice(128, 132)
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_UNDEFINED: Final = 0xFFFFFFFF
_FIRST_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_LOGGERS: Final = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls", "PIL")

for _name in _LOGGERS:
    # Permanently: what they log quotes values from the file, and some identify a patient.
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class Reason(StrEnum):
    """The closed list of reasons for which a file is not used, in the order of the checks."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    NOT_DICOM = "not-dicom"
    NO_PIXELS = "no-pixels"
    UNDECODABLE = "undecodable"
    BLANK = "blank"
    WRONG_MODALITY = "wrong-modality"
    DERIVED = "derived-or-localiser"
    BURNED_IN = "burned-in-annotation"
    NO_PATIENT_ID = "no-patient-id"
    DUPLICATE = "duplicate"
    NO_LABEL = "no-label"
    NO_CLASS = "label-outside-classes"
    TWO_LABELS = "two-labels"


class Unusable(Exception):  # noqa: N818 - a verdict on a file, not an error a person sees
    """This file cannot be used.

    Args:
        reason: from the closed list.
        detail: a few words composed by this project; never a value from the file that
            could belong to a patient.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)


class Derived(StrEnum):
    """What to do with images whose Image Type (PS3.3, C.7.6.1.1.2) is not that of an original."""

    REJECT = "reject"
    """Use neither derived images nor localisers."""
    PRIMARY = "primary"
    """Use derived images that are primary: lossy compressed, or processed for presentation."""
    ACCEPT = "accept"
    """Use derived images and localisers alike."""


@dataclass(frozen=True)
class Header:
    """What is read of a file besides its pixels. The three identifiers are sensitive."""

    patient: str = field(repr=False)
    study: str = field(repr=False)
    instance: str = field(repr=False)
    modality: str
    image_type: tuple[str, ...]
    burned_in: bool
    rows: int
    columns: int
    frames: int


@dataclass(frozen=True)
class Rules:
    """Which images a study can use, as far as the header tells.

    Args:
        modalities: accepted values of Modality (0008,0060); empty for any.
        derived: what to do with derived images and localisers.
    """

    modalities: tuple[str, ...] = ()
    derived: Derived = Derived.REJECT

    def judge(self, header: Header) -> None:
        """Pass the header, or say why not.

        Raises:
            Unusable: of another modality, derived or a localiser, with a burned-in
                annotation flagged, or without a PatientID.
        """
        if self.modalities and header.modality not in {name.upper() for name in self.modalities}:
            raise Unusable(Reason.WRONG_MODALITY, f"Modality is {_shown(header.modality)}")
        self._judge_type(header.image_type)
        if header.burned_in:
            raise Unusable(Reason.BURNED_IN, "Burned In Annotation (0028,0301) is YES")
        if not header.patient:
            raise Unusable(Reason.NO_PATIENT_ID, "PatientID (0010,0020) is empty or missing")

    def _judge_type(self, image_type: tuple[str, ...]) -> None:
        if self.derived is Derived.ACCEPT:
            return
        if "LOCALIZER" in image_type[2:]:
            raise Unusable(Reason.DERIVED, "Image Type (0008,0008) says LOCALIZER")
        primary = image_type[1:2] == ("PRIMARY",)
        if image_type[:1] == ("DERIVED",) and not (self.derived is Derived.PRIMARY and primary):
            kind = "DERIVED, PRIMARY" if primary else "DERIVED"
            raise Unusable(Reason.DERIVED, f"Image Type (0008,0008) says {kind}")


@dataclass(frozen=True)
class DicomReading:
    """A file as it was read: its content's SHA-256, its header and its data set."""

    sha256: str
    header: Header
    dataset: FileDataset = field(repr=False)


def read(path: Path, *, here: bool = False) -> DicomReading:
    """Read a file once: hash, header and data set are those of the same bytes.

    Args:
        path: of the file.
        here: this process must not come to harm, and has no bounds of its own. A small file
            that is not deflated takes memory and time in proportion to its size, all of it
            in Python, which raises where it fails.

    Raises:
        Unusable: unreadable, too large, not DICOM, without pixels, or cut short.
        Elsewhere: it was to be ``here``, and is not small or may be deflated.
    """
    data = _content(path, SMALL if here else MOST_BYTES, here=here)
    # A deflated file of a few kilobytes can unpack to gigabytes. Its syntax stands in plain bytes.
    if here and _DEFLATED in data:
        raise Elsewhere
    # Hash and header from the same bytes: the file may be replaced between two reads.
    dataset, truncated = _parse(data)
    if not any(keyword in dataset for keyword in PIXELS):
        if truncated:
            raise Unusable(Reason.UNDECODABLE, "the file ends before its pixel data")
        raise Unusable(Reason.NO_PIXELS)
    return DicomReading(hashlib.sha256(data).hexdigest(), _header(dataset), dataset)


def _content(path: Path, most: int, *, here: bool) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for a writer, perhaps forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable(Reason.UNREADABLE, "not a regular file")
            if status.st_size > most:
                if here:
                    raise Elsewhere
                raise Unusable(Reason.TOO_LARGE, f"more than {most >> 20} MiB")
            return file.read(status.st_size)  # no more than was checked, should the file grow
    except OSError as error:
        raise Unusable(Reason.UNREADABLE, error.strerror or type(error).__name__) from error


def _parse(data: bytes) -> tuple[FileDataset, bool]:
    """The data set, and whether the file ended in the middle of it.

    Files without the preamble of PS3.10 are older than it, or stripped; they are read if
    they begin like a data set and then prove to be an image or an object with a class.
    """
    # PS3.10, section 7.1: 128 bytes of preamble, then "DICM".
    proper = data[_PREFIX] == b"DICM"
    if not proper and data[:2] not in _FIRST_GROUPS:
        raise Unusable(Reason.NOT_DICOM)
    try:
        with quiet() as said:
            dataset = dcmread(BytesIO(data), force=True)
            cut_short = _cut_short(dataset, said)
    except InvalidDicomError as error:
        raise Unusable(Reason.NOT_DICOM) from error
    except Exception as error:  # a damaged file can make the parser raise anything
        reason = Reason.UNDECODABLE if proper else Reason.NOT_DICOM
        raise Unusable(reason, f"{type(error).__name__} while reading the header") from error
    # force=True parses any bytes into some elements: these two no random file has.
    if not proper and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise Unusable(Reason.NOT_DICOM)
    return dataset, cut_short


def _cut_short(dataset: FileDataset, said: list[warnings.WarningMessage]) -> bool:
    """Whether the file ended within an element, or before the first one."""
    if len(dataset) == 0 or any("end of file" in str(each.message).lower() for each in said):
        return True
    # pydicom gives a last element that is too short without a warning: compare its stated length.
    last: object = dataset.get_item(max(dataset.keys()))
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED:
        return False
    return len(last.value or b"") < last.length


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep what the DICOM libraries warn of: it quotes values, and some are a patient's.

    Yields:
        The warnings, for the caller to look at and drop.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


def _header(dataset: FileDataset) -> Header:
    """The header.

    Raises:
        Unusable: a value is so long that it is none: who remembers headers has no bound else.
    """
    with quiet():
        return Header(
            patient=_text(dataset, "PatientID"),
            study=_text(dataset, "StudyInstanceUID"),
            instance=_text(dataset, "SOPInstanceUID"),
            modality=_text(dataset, "Modality").upper(),
            image_type=tuple(part.upper() for part in _texts(dataset, "ImageType")),
            burned_in=_text(dataset, "BurnedInAnnotation").upper() == "YES",
            rows=_count(dataset, "Rows"),
            columns=_count(dataset, "Columns"),
            frames=max(1, _count(dataset, "NumberOfFrames")),
        )


def _texts(dataset: FileDataset, keyword: str) -> list[str]:
    """The values of an element as text; none where it is absent or cannot be read."""
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - a value that cannot be converted raises whatever its VR's reader does
        return []
    if value is None:
        return []
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    texts = [normal(str(part)) for part in values]
    # Headers stay in memory for the whole archive: one file must not fill it with a long value.
    if sum(map(len, texts)) + len(texts) > LONGEST:
        raise Unusable(Reason.UNDECODABLE, f"its {keyword} has more than {LONGEST} characters")
    return texts


def _text(dataset: FileDataset, keyword: str) -> str:
    return "\\".join(_texts(dataset, keyword))


def _count(dataset: FileDataset, keyword: str) -> int:
    text = _text(dataset, keyword)
    return int(text) if text.isdecimal() else 0


def _shown(modality: str) -> str:
    """A modality as it may be shown: defined terms are short capitals; the rest is not shown."""
    fits = modality.isascii() and modality.isalpha() and len(modality) <= len("RTSTRUCT")
    return modality if fits else "not a defined term"
