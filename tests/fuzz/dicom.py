"""DICOM files: made in every form that a site reads, and changed element by element.

An element's tag, VR, length and value are changed apart from each other (PS3.5, section 7.1), and
so are the fragments of encapsulated pixels (annex A.4).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from client.data.archive import Found, Rejected, examine
from client.data.cache import ImageShape, decode
from client.data.cache_index import CacheRefused
from client.data.dicom import Reason
from client.data.parallel import Elsewhere
from tests.fuzz.mutation import INTEGERS, TEXTS, Draw, bytes_of
from tests.fuzz.target import Target

PATIENT: Final = "FUZZ^PATIENT"
"""No verdict may say it."""
SHIPPED: Final = Path(pydicom.__file__).parent / "data" / "test_files"
SMALL: Final = 20_000
"""Bytes of a shipped file that is taken as a sample."""
UNDEFINED: Final = 0xFFFFFFFF
_LONG: Final = (
    b"OB",
    b"OD",
    b"OF",
    b"OL",
    b"OV",
    b"OW",
    b"SQ",
    b"UC",
    b"UN",
    b"UR",
    b"UT",
    b"SV",
    b"UV",
)
_VRS: Final = (
    *_LONG, b"US", b"SS", b"UL", b"SL", b"FL", b"FD", b"AT", b"IS", b"DS", b"CS", b"UI", b"LO",
    b"PN", b"DA", b"TM", b"AS", b"ZZ", b"??", b"\0\0", b"us",
)  # fmt: skip
_SYNTAXES: Final = (
    *(str(each) for each in pydicom.uid.AllTransferSyntaxes), "1.2.840.10008.1.2\\1.2", "1.2.3", "",
    "not a UID", "1.2.840.10008.1.2.1 ",
)  # fmt: skip
_NUMBERS: Final = (
    b"0", b"1", b"-1", b"1e400", b"1,5", b"NaN", b"inf", b"", b" ", b"1\\2", b"\\", b"9" * 40,
    b"0x1", b"1e-400", b"-0", b"1.5 ", b"+-1", b"\xb2", b"65536", b"2147483648",
)  # fmt: skip


def header(**changes: Any) -> Dataset:  # noqa: ANN401 - values of elements
    """A small grey image, changed."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = "1.2.3.4", "1.2.3"
    dataset.PatientID, dataset.Modality = PATIENT, "DX"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = 12, 10
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = _ramp(dataset).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def _ramp(dataset: Dataset) -> NDArray[Any]:
    shape = (dataset.Rows, dataset.Columns)
    return np.arange(shape[0] * shape[1], dtype="<u2").reshape(shape) * 30


def _table(first: int, bits: int, **more: Any) -> Dataset:  # noqa: ANN401 - values of elements
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, first, bits], list(range(0, 1024, 4))
    item["LUTData"].VR = "US"
    for name, value in more.items():
        setattr(item, name, value)
    return item


def _written(dataset: Dataset, *, implicit: bool = False, big: bool = False) -> bytes:
    file = BytesIO()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    pydicom.dcmwrite(
        file, dataset, implicit_vr=implicit, little_endian=not big, enforce_file_format=True
    )
    return file.getvalue()


def _encapsulated(syntax: UID, frames: Sequence[bytes], **changes: Any) -> bytes:  # noqa: ANN401
    dataset = header(**changes)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return _written(dataset)


def _pillow(kind: str, image: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401
    file = BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def made() -> Iterator[bytes]:
    """A file of every form."""
    plain = partial(header)
    byte = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    eight = np.arange(120, dtype=np.uint8).reshape(12, 10) * 2
    colour = np.stack([eight, eight[::-1], eight[:, ::-1]], axis=-1)
    rgb = {
        **byte,
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
    }
    yield _written(plain(WindowCenter="1800", WindowWidth="3000"))
    yield _written(plain(RescaleSlope="1.5", RescaleIntercept="-1024", VOILUTFunction="SIGMOID",
                         WindowCenter=["40", "50"], WindowWidth=["400", "500"]))  # fmt: skip
    yield _written(plain(PhotometricInterpretation="MONOCHROME1", PixelRepresentation=1,
                         PixelPaddingValue=-1, PixelPaddingRangeLimit=-9))  # fmt: skip
    yield _written(plain(VOILUTSequence=[_table(0, 10)]))
    yield _written(plain(ModalityLUTSequence=[_table(0, 16, ModalityLUTType="HU")]))
    yield _written(plain(NumberOfFrames="2", PixelData=_ramp(plain()).tobytes() * 2))
    yield _written(plain(**rgb, PixelData=colour.tobytes()))
    yield _written(plain(**byte, PixelData=eight.tobytes(),
                         PhotometricInterpretation="PALETTE COLOR",
                         **{f"{name}PaletteColorLookupTable{part}": value
                            for name in ("Red", "Green", "Blue")
                            for part, value in (("Descriptor", [256, 0, 16]),
                                                ("Data", bytes(512)))}))  # fmt: skip
    implicit = plain()
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    yield _written(implicit, implicit=True)
    big = plain(PixelData=_ramp(plain()).astype(">u2").tobytes())
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    yield _written(big, big=True)
    deflated = plain()
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    yield _written(deflated)
    rle = plain()
    rle.compress(RLELossless, encoding_plugin="pydicom")
    yield _written(rle)
    yield _encapsulated(JPEGBaseline8Bit, [_pillow("JPEG", eight)] * 2, **byte, NumberOfFrames="2")
    yield _encapsulated(JPEGBaseline8Bit, [_pillow("JPEG", colour)],
                        **{**rgb, "PhotometricInterpretation": "YBR_FULL_422"})  # fmt: skip
    stream = _pillow("JPEG2000", eight, no_jp2=True)
    yield _encapsulated(JPEG2000Lossless, [stream], **byte)
    yield _encapsulated(JPEG2000, [_pillow("JPEG2000", colour, no_jp2=True)], **rgb)
    jls = plain(**byte, PixelData=eight.tobytes())
    jls.compress(JPEGLSLossless)
    yield _written(jls)
    bare = _written(plain())
    yield bare[132:]
    yield bare[132 + 12 + int.from_bytes(bare[140:144], "little") :]


def shipped() -> Iterator[bytes]:
    """Small files that pydicom is shipped with: other makers' forms."""
    for path in sorted(SHIPPED.glob("*.dcm")):
        if path.stat().st_size < SMALL:
            yield path.read_bytes()


@dataclass(frozen=True)
class Element:
    """One element as it is written; ``vr`` is empty where it is implicit."""

    tag: bytes
    vr: bytes
    length: int
    value: bytes

    @property
    def written(self) -> bytes:
        """Its bytes, whether they agree with each other or not."""
        if not self.vr:
            return self.tag + struct.pack("<I", self.length) + self.value
        if self.vr in _LONG:
            return self.tag + self.vr + bytes(2) + struct.pack("<I", self.length) + self.value
        return self.tag + self.vr + struct.pack("<H", self.length & 0xFFFF) + self.value

    def holding(self, value: bytes) -> Element:
        """The same with another value of its own length."""
        return replace(self, value=value, length=len(value))


def elements(data: bytes) -> tuple[bytes, list[Element]]:
    """What comes before the first element, and all of them; the last may be what is left.

    Raises:
        ValueError: they are not little-endian, or make no sense.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    found = list[Element]()
    implicit, at = False, start
    while at < len(data):
        tag, vr = data[at : at + 4], data[at + 4 : at + 6]
        in_meta = tag[:2] == b"\x02\x00"
        if not in_meta and found and found[-1].tag[:2] == b"\x02\x00":
            implicit = not (vr.isalpha() and vr.isupper())
        if implicit:
            vr, head, size = b"", 8, data[at + 4 : at + 8]
        elif vr in _LONG:
            head, size = 12, data[at + 8 : at + 12]
        elif vr.isalpha():
            head, size = 8, data[at + 6 : at + 8]
        else:
            raise ValueError("no element")
        length = int.from_bytes(size, "little")
        rest = length == UNDEFINED or length > len(data) - at - head
        value = data[at + head :] if rest else data[at + head : at + head + length]
        found.append(Element(tag, vr, length, value))
        at += head + len(value)
    if len(found) < 3:
        raise ValueError("hardly any element")
    return data[:start], found


def spoil_elements(draw: Draw, found: list[Element]) -> None:
    """Change one element, or the order of some."""
    place = draw.randrange(len(found))
    old = found[place]
    match draw.randrange(12):
        case 0:
            found[place] = replace(old, vr=draw.choice(_VRS) if old.vr else b"")
        case 1:
            near = old.length + draw.choice((1, -1, 2, -2, 100))
            found[place] = replace(
                old, length=draw.choice((near, UNDEFINED, *INTEGERS[3:])) % 2**32
            )
        case 2 | 3 | 4:
            found[place] = old.holding(_value(draw, old))
        case 5:
            del found[place]
        case 6:
            found.insert(draw.randrange(len(found) + 1), old)
        case 7:
            other = draw.randrange(len(found))
            found[place], found[other] = found[other], old
        case 8:
            found[place] = replace(old, tag=bytes_of(draw, old.tag)[:4].ljust(4, b"\0"))
        case 9:
            found.insert(draw.choice((place, len(found))), _odd(draw, explicit=bool(old.vr)))
        case 10:
            syntax = next((i for i, each in enumerate(found) if each.tag == b"\x02\0\x10\0"), place)
            text = draw.choice(_SYNTAXES).encode()
            found[syntax] = found[syntax].holding(text + bytes(len(text) % 2))
        case _:
            found[-1] = replace(found[-1], value=_fragments(draw, found[-1]))


def _value(draw: Draw, element: Element) -> bytes:
    size = max(1, len(element.value))
    number = draw.choice(INTEGERS) % 2**32
    return draw.choice(
        (
            bytes_of(draw, element.value),
            draw.choice(_NUMBERS),
            draw.choice(TEXTS).encode("utf-8", "replace"),
            struct.pack("<H", number & 0xFFFF) * draw.choice((1, 1, 2, 3)),
            struct.pack("<I", number),
            struct.pack("<d", draw.choice((0.0, float("nan"), float("inf"), 1e308, 5e-324))),
            element.value * 2,
            element.value[: draw.randrange(size)],
            element.value + b"\\" + element.value,
            b"\xff" * len(element.value),
            bytes(len(element.value)),
        )
    )


_TAGS: Final = (
    0x00280002, 0x00280008, 0x00280004, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101,
    0x00280102, 0x00280103, 0x00280106, 0x00280107, 0x00280120, 0x00280121, 0x00281050, 0x00281051,
    0x00281052, 0x00281053, 0x00281054, 0x00281056, 0x00283000, 0x00283010, 0x00283002, 0x00283006,
    0x00281101, 0x00281201, 0x00281221, 0x00080005, 0x00080008, 0x00080060, 0x00100020, 0x00280301,
    0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009, 0x7FE00010, 0x60003000, 0x00020010, 0x52009229,
    0x20500020, 0x00289110, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF, 0x00000000, 0x00091001,
)  # fmt: skip
"""Those that decide a pixel or a verdict, and delimiters where none belongs."""


def _odd(draw: Draw, *, explicit: bool) -> Element:
    number = draw.choice(_TAGS)
    tag = struct.pack("<HH", number >> 16, number & 0xFFFF)
    value = draw.choice(
        (
            b"",
            draw.choice(_NUMBERS),
            struct.pack("<H", draw.choice(INTEGERS) & 0xFFFF),
            _nested(draw),
        )
    )
    vr = draw.choice(_VRS) if explicit else b""
    return Element(tag, vr, draw.choice((len(value), len(value), UNDEFINED)), value)


def _nested(draw: Draw) -> bytes:
    """Sequences within sequences."""
    begin = b"\xfe\xff\x00\xe0" + struct.pack("<I", UNDEFINED)
    inner = b"\x28\x00\x10\x30SQ\0\0" + struct.pack("<I", UNDEFINED)
    return (begin + inner) * draw.choice((1, 2, 50, 2000))


def _fragments(draw: Draw, pixels: Element) -> bytes:
    """Encapsulated pixels with one fragment changed; others are changed as bytes."""
    items, at, value = [], 0, pixels.value
    while value[at : at + 4] == b"\xfe\xff\x00\xe0":
        end = at + 8 + int.from_bytes(value[at + 4 : at + 8], "little")
        items.append(value[at:end])
        at = end
    if len(items) < 2:
        return bytes_of(draw, value)
    place = draw.randrange(len(items))
    match draw.randrange(6):
        case 0:
            items[place] = items[place][:8] + bytes_of(draw, items[place][8:])
        case 1:
            inner = bytearray(bytes_of(draw, items[-1][8:60]) + items[-1][60:])
            items[-1] = items[-1][:4] + struct.pack("<I", len(inner)) + inner
        case 2:
            length = draw.choice((UNDEFINED, 0, 1, len(items[place]), 2**31))
            items[place] = items[place][:4] + struct.pack("<I", length) + items[place][8:]
        case 3:
            del items[place]
        case 4:
            items.insert(place, items[draw.randrange(len(items))])
        case _:
            return b"".join(items) + draw.choice((b"", value[at:] * 2, b"\xfe\xff"))
    return b"".join(items) + value[at:]


class DicomFiles(Target):
    """One file: what ``check`` says of it, and what is trained on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shape = ImageShape((8, 8), 1)

    def samples(self) -> Sequence[bytes]:
        return [*made(), *shipped()]

    def spoil(self, draw: random.Random, data: bytes) -> bytes:
        if draw.random() < 0.2:
            return bytes_of(draw, data)
        try:
            start, found = elements(data)
        except ValueError:
            return bytes_of(draw, data)
        for _ in range(draw.choice((1, 1, 2, 3))):
            if found:
                spoil_elements(draw, found)
        return start + b"".join(each.written for each in found)

    def take(self, data: bytes) -> str:
        path = self.folder / "one.dcm"
        path.write_bytes(data)
        verdict = examine(self.folder, path.name, decode=True)
        self._as_in_the_daemon(path.name, verdict)
        if isinstance(verdict, Rejected):
            assert verdict.reason in set(Reason), "a reason that is not in the list"
            assert PATIENT not in verdict.detail, "a verdict that names a patient"
            return verdict.reason
        self._trained_on(verdict)
        return "found"

    def _as_in_the_daemon(self, name: str, verdict: Found | Rejected) -> None:
        """A file that a site's own process opens gets the same verdict as in a worker."""
        try:
            here = examine(self.folder, name, decode=True, here=True)
        except Elsewhere:
            return
        if isinstance(verdict, Rejected) and isinstance(here, Rejected):
            assert here.reason == verdict.reason, "two verdicts on one file"
        else:
            assert here == verdict, "two verdicts on one file"

    def _trained_on(self, found: Found) -> None:
        decoded = decode(self.folder, self.shape, found)
        if isinstance(decoded, CacheRefused):
            assert PATIENT not in decoded.detail, "a verdict that names a patient"
            return
        images = decoded.images
        assert images.shape[1:] == self.shape.image, "images of another shape"
        assert images.dtype == np.float16, "images of another type"
        assert bool(np.isfinite(images).all()), "pixels that are no numbers"
        assert 0 <= images.min() <= images.max() <= 1, "pixels beyond 0 to 1"
