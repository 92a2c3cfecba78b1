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
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from client.data.parallel import Elsewhere
from client.data.pseudonyms import normal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import FileDataset
    from pydicom.tag import BaseTag

MOST_BYTES: Final = 2**30
"""Of a file that is opened at all: 1 GiB."""
SMALL: Final = 2**18
"""Bytes of a file that may be opened in the site's own process: 256 KiB."""
LONGEST: Final = 1024
"""Characters that a value of the header may have; the Standard's longest identifier has 64."""
PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
DRAWN: Final = "CONSILIUM"
"""Fourth value of Image Type (0008,0008) of a picture that a prediction drew, which is an
implementation's own (PS3.3, C.7.6.1.1.2): nobody trains on it, or predicts it again."""
NO_VERDICT: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
"""What is raised while a file is read and says nothing about the file. All else is its verdict,
also what is no ``Exception``: a decoder written in Rust raises its panics as ``BaseException``."""
_PREFIX: Final = slice(128, 132)
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_DELIMITER: Final = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_UNDEFINED: Final = 0xFFFFFFFF
_WITHIN: Final = "the file ends within its pixel data"
_FIRST_GROUPS: Final = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_LOGGERS: Final = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls", "PIL")

for _name in _LOGGERS:
    # Permanently: what they log quotes values from the file, and some identify a patient.
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class Reason(StrEnum):
    """The closed list of reasons for which a file is not used, in the order of the checks."""

    UNREADABLE = "unreadable"
    UNLISTED = "folder-not-listed"
    TOO_LARGE = "too-large"
    NOT_DICOM = "not-dicom"
    NO_PIXELS = "no-pixels"
    NO_SYNTAX = "no-transfer-syntax"
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
    NO_SPACING = "no-pixel-spacing"
    NO_MASK = "no-mask"
    TWO_MASKS = "two-masks"
    BAD_MASK = "bad-mask"
    MASK_SIZE = "mask-of-another-size"
    MASK_CLASS = "mask-outside-classes"
    NOT_MASK = "not-a-mask"
    NO_IMAGE = "mask-without-image"


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
        require_not_drawn(image_type)
        if self.derived is Derived.ACCEPT:
            return
        if "LOCALIZER" in image_type[2:]:
            raise Unusable(Reason.DERIVED, "Image Type (0008,0008) says LOCALIZER")
        primary = image_type[1:2] == ("PRIMARY",)
        if image_type[:1] == ("DERIVED",) and not (self.derived is Derived.PRIMARY and primary):
            kind = "DERIVED, PRIMARY" if primary else "DERIVED"
            raise Unusable(Reason.DERIVED, f"Image Type (0008,0008) says {kind}")


def require_not_drawn(image_type: tuple[str, ...]) -> None:
    """Pass an image that no prediction drew.

    Raises:
        Unusable: a prediction drew it.
    """
    if DRAWN in image_type:
        raise Unusable(Reason.DERIVED, "a picture that an earlier prediction drew")


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
        Unusable: unreadable, too large, not DICOM, without pixels, cut short, or without a word
            on how its pixels are stored.
        Elsewhere: it was to be ``here``, and is not small or may be deflated.
    """
    return parse(content(path, here=here), here=here)


def is_deflated(data: bytes) -> bool:
    """Whether a file's data set may unpack to far more than the file has."""
    return _DEFLATED in data


def parse(data: bytes, *, here: bool = False) -> DicomReading:
    """Read a file's bytes.

    Args:
        data: all of them.
        here: as for :func:`read`.

    Raises:
        Unusable: as there.
        Elsewhere: as there.
    """
    # A deflated file of a few kilobytes can unpack to gigabytes. Its syntax stands in plain bytes.
    if here and is_deflated(data):
        raise Elsewhere
    # Hash and header from the same bytes: the file may be replaced between two reads.
    dataset, cut_short = _parse(data)
    if cut_short and not _pixels(dataset):
        dataset = _closed(data)
    if not _pixels(dataset):
        raise Unusable(Reason.NO_PIXELS)
    with quiet():
        _name_colours(dataset)
        _name_syntax(dataset)
        if cut_short:
            _require_whole(dataset)
        header = _header(dataset)
    return DicomReading(hashlib.sha256(data).hexdigest(), header, dataset)


def content(path: Path, *, here: bool = False) -> bytes:
    """The bytes of a file.

    Args:
        path: of the file.
        here: only of a small one.

    Raises:
        Unusable: unreadable or too large.
        Elsewhere: it was to be ``here``, and is not small.
    """
    most = SMALL if here else MOST_BYTES
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
            file = BytesIO(data)
            dataset = dcmread(file, force=True)
            cut_short = _cut_short(dataset, said) or file.tell() < len(data)
    except InvalidDicomError as error:
        raise Unusable(Reason.NOT_DICOM) from error
    except NO_VERDICT:
        raise
    except BaseException as error:  # a damaged file can make the parser raise anything
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
    # pydicom gives a last element that is too short without a warning: compare stated lengths.
    return any(_short(_raw(dataset, tag)) for tag in dataset.keys())  # noqa: SIM118 - see _raw


def _raw(dataset: FileDataset, tag: BaseTag | str) -> RawDataElement | None:
    """An element as it was read; None where it is absent or was converted.

    Converting one of no known kind raises, as a stray delimiter. So does iterating a data set.
    """
    element: object = dataset.get_item(tag, keep_deferred=True)
    return element if isinstance(element, RawDataElement) else None


def _short(element: RawDataElement | None) -> bool:
    """Whether an element has less than it says."""
    if element is None or element.length == _UNDEFINED:
        return False
    return len(element.value or b"") < element.length


def _pixels(dataset: FileDataset) -> str:
    """The keyword of the element with the pixels; empty where there is none."""
    return next((keyword for keyword in PIXELS if keyword in dataset), "")


def _closed(data: bytes) -> FileDataset:
    """The data set of a file that ends without the delimiter after its pixels (PS3.5, A.4).

    Raises:
        Unusable: more than the delimiter is missing, or that cannot be excluded.
    """
    dataset, _ = _parse(data + _DELIMITER)
    pixels = _raw(dataset, "PixelData")
    if pixels is None:
        raise Unusable(Reason.UNDECODABLE, "the file or its header ends before its pixel data")
    items = _items(pixels.value or b"")
    if not items:
        raise Unusable(Reason.UNDECODABLE, _WITHIN)
    # Where a frame has several items, or an item several frames, one more may have followed.
    with quiet():
        frames = max(1, _count(dataset, "NumberOfFrames"))
    if items != 1 + frames:
        raise Unusable(
            Reason.UNDECODABLE,
            "the delimiter after its pixel data is missing, and perhaps some pixels too",
        )
    return dataset


def _items(value: bytes) -> int:
    """The number of items, offset table included; 0 where the last one is not whole."""
    at = number = 0
    while value[at : at + 4] == _ITEM:
        at, number = at + 8 + int.from_bytes(value[at + 4 : at + 8], "little"), number + 1
    return number if at <= len(value) and _DELIMITER.startswith(value[at:]) else 0


def _name_colours(dataset: FileDataset) -> None:
    """Write the photometric interpretation as the Standard does: capitals, without blanks.

    Raises:
        Unusable: it cannot be read.
    """
    codes = _codes(dataset, "PhotometricInterpretation")
    # Of another VR it may be no text that could be written back.
    written = dataset.get("PhotometricInterpretation")
    if len(codes) == 1 and isinstance(written, str) and written != codes[0]:
        dataset.PhotometricInterpretation = codes[0]


def _name_syntax(dataset: FileDataset) -> None:
    """Name the transfer syntax of a file that does not, if its pixels are plainly not compressed.

    A file without file meta information (PS3.10, section 7.1) is one; pydicom then tells from the
    first element how the others are written.

    Raises:
        Unusable: they may be compressed.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if isinstance(syntax, UID) and syntax:
        return
    lack = "has more than one value" if syntax else "is missing"
    pixels, length = _raw(dataset, _pixels(dataset)), _plain_length(dataset)
    # Compressed pixels have no length, or another one: nothing is guessed about those.
    if not length or pixels is None or pixels.length not in (length, length + length % 2):
        raise Unusable(
            Reason.NO_SYNTAX,
            f"the transfer syntax (0002,0010) {lack}, and the length of the pixel data is not that "
            "of uncompressed pixels",
        )
    implicit, little = dataset.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian


def _require_whole(dataset: FileDataset) -> None:
    """Require of a file that was cut short that its pixels are all there.

    Raises:
        Unusable: they are not. Compressed ones without a closing delimiter are not looked at here.
    """
    pixels = _raw(dataset, _pixels(dataset))
    if pixels and _short(pixels) and len(pixels.value or b"") < _plain_length(dataset):
        raise Unusable(Reason.UNDECODABLE, _WITHIN)


def _plain_length(dataset: FileDataset) -> int:
    """Bytes that the pixels take uncompressed, without padding; 0 where the header does not say."""
    try:
        return int(get_expected_length(dataset))
    except Exception:  # noqa: BLE001 - what it needs is missing, or is no number
        return 0


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep what the DICOM libraries warn of: it quotes values, and some are a patient's.

    Yields:
        The warnings, for the caller to look at and drop.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


@contextmanager
def translated(doing: str, reason: Reason = Reason.UNDECODABLE) -> Iterator[None]:
    """Turn whatever a malformed file raises into a verdict on it, and keep what libraries say.

    Raises:
        Unusable: for all that is raised, but what says nothing about the file.
    """
    try:
        with quiet():
            yield
    except (Unusable, Elsewhere, *NO_VERDICT):
        raise
    except BaseException as error:
        raise Unusable(reason, f"{type(error).__name__} while {doing}") from error


@contextmanager
def contained(doing: str, reason: Reason = Reason.UNDECODABLE, *, here: bool) -> Iterator[None]:
    """The same around all that is done with a file.

    Args:
        doing: in words.
        reason: of the verdict.
        here: the file is opened in the site's own process.

    Raises:
        Unusable: as :func:`translated`.
        Elsewhere: ``here``, and memory ended: a process of its own has more, and its end ends no
            other.
    """
    try:
        with translated(doing, reason):
            yield
    except MemoryError as error:
        if here:
            raise Elsewhere from error
        raise


def _header(dataset: FileDataset) -> Header:
    """The header.

    Raises:
        Unusable: a value is so long that it is none: who remembers headers has no bound else.
    """
    return Header(
        patient=_text(dataset, "PatientID"),
        study=_text(dataset, "StudyInstanceUID"),
        instance=_text(dataset, "SOPInstanceUID"),
        modality="\\".join(_codes(dataset, "Modality")),
        image_type=tuple(part.upper() for part in _texts(dataset, "ImageType")),
        burned_in="YES" in _codes(dataset, "BurnedInAnnotation"),
        rows=_count(dataset, "Rows"),
        columns=_count(dataset, "Columns"),
        frames=max(1, _count(dataset, "NumberOfFrames")),
    )


def _texts(dataset: FileDataset, keyword: str) -> list[str]:
    """The values of an element as text; none where it is absent.

    Raises:
        Unusable: they cannot be read, or are too long.
    """
    try:
        value = dataset.get(keyword)
    except Exception as error:  # a value that cannot be converted raises whatever its reader does
        # Not as if it were absent: an unreadable Image Type may say that the image is derived.
        raise Unusable(Reason.UNDECODABLE, f"its {keyword} cannot be read") from error
    if value is None:
        return []
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    texts = [normal(str(part)) for part in values]
    # Headers stay in memory for the whole archive: one file must not fill it with a long value.
    if sum(map(len, texts)) + len(texts) > LONGEST:
        raise Unusable(Reason.UNDECODABLE, f"its {keyword} has more than {LONGEST} characters")
    return texts


def _codes(dataset: FileDataset, keyword: str) -> list[str]:
    """The values of an element that are not empty, in capitals, as a code string is."""
    return [text.upper() for text in _texts(dataset, keyword) if text]


def _text(dataset: FileDataset, keyword: str) -> str:
    return "\\".join(_texts(dataset, keyword))


def _count(dataset: FileDataset, keyword: str) -> int:
    """A number of the header; 0 where it is absent.

    Raises:
        Unusable: it is no number.
    """
    try:
        return int(float(_text(dataset, keyword) or 0))
    except (ValueError, OverflowError) as error:
        raise Unusable(Reason.UNDECODABLE, f"its {keyword} is not a number") from error


def _shown(modality: str) -> str:
    """A modality as it may be shown: defined terms are short capitals; the rest is not shown."""
    fits = modality.isascii() and modality.isalpha() and len(modality) <= len("RTSTRUCT")
    return modality if fits else "not a defined term"
