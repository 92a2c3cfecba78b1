"""Every element of a header that decides a pixel: it is read, or the file is rejected by its name.

The code that makes pictures sees a header only as a :class:`Module`, which knows the elements that
are listed here and no other. An element that is absent or empty is None, or none. One that is there
and cannot be read, or says what it cannot mean, is never taken for absent.

The numbers and terms follow PS3.3: C.7.5.1 (padding), C.7.6.3 (image pixel), C.7.6.16 (functional
groups), C.7.6.24 (floating point), C.11.1 (modality), C.11.2 (VOI) and C.11.6 (presentation).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from client.data.dicom import Reason, Unusable


@dataclass(frozen=True)
class Number:
    """What a number may be.

    Args:
        least: the smallest.
        most: the largest.
        whole: no fraction.
        count: how many there are; 0 for alternatives, of which the first counts.
        nonzero: not 0.
    """

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False
    count: int = 1
    nonzero: bool = False


_SHORT: Final = Number(-(2**15), 2**16 - 1, whole=True)
"""Sixteen bits, signed or not: which of both its writer meant follows from the pixels."""
_DESCRIPTOR: Final = Number(_SHORT.least, _SHORT.most, whole=True, count=3)
DESCRIPTORS: Final = (
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
)
"""Of the tables of a palette."""
PALETTES: Final = (
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
)
SEGMENTED: Final = tuple(f"Segmented{keyword}" for keyword in PALETTES)
"""The same, packed."""
TABLES: Final = ("LUTData", *PALETTES)

NUMBERS: Final = {
    "Rows": Number(1, 2**16 - 1, whole=True),
    "Columns": Number(1, 2**16 - 1, whole=True),
    "NumberOfFrames": Number(1, 2**31 - 1, whole=True),
    "SamplesPerPixel": Number(1, 3, whole=True),
    "PlanarConfiguration": Number(0, 1, whole=True),
    "BitsAllocated": Number(1, 64, whole=True),
    "BitsStored": Number(1, 64, whole=True),
    "HighBit": Number(0, 63, whole=True),
    "PixelRepresentation": Number(0, 1, whole=True),
    "PixelPaddingValue": _SHORT,
    "PixelPaddingRangeLimit": _SHORT,
    "FloatPixelPaddingValue": Number(),
    "FloatPixelPaddingRangeLimit": Number(),
    "DoubleFloatPixelPaddingValue": Number(),
    "DoubleFloatPixelPaddingRangeLimit": Number(),
    "RescaleSlope": Number(nonzero=True),
    "RescaleIntercept": Number(),
    "WindowCenter": Number(count=0),
    "WindowWidth": Number(0, count=0, nonzero=True),
    "LUTDescriptor": _DESCRIPTOR,
    **dict.fromkeys(DESCRIPTORS, _DESCRIPTOR),
}
TERMS: Final = {
    "PhotometricInterpretation": (
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_ICT",
        "YBR_RCT",
    ),
    "PresentationLUTShape": ("IDENTITY", "INVERSE"),
    "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID"),
}
SEQUENCES: Final = (
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)

# float() also reads "1_000" and "infinity", which are no decimal strings (PS3.5, 6.2).
# One way to match: with two, a long run of digits and a letter would take hours.
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Module:
    """A data set, or an item of a sequence in one, and what it says of pixels."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def has(self, keyword: str) -> bool:
        """Whether an element is there and not empty."""
        return self._value(keyword) is not None

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of an element of :data:`NUMBERS`; none where it is absent or empty.

        Raises:
            Unusable: one of them is none, or not what it may be.
        """
        wanted, value = NUMBERS[keyword], self._value(keyword)
        if value is None:
            return ()
        parts: Any = value if isinstance(value, MultiValue | list | tuple) else [value]
        if not wanted.count:
            parts = parts[:1]
        elif len(parts) != wanted.count:
            reject(keyword, f"has {len(parts)} values; {wanted.count} wanted")
        return tuple(_number(keyword, wanted, part) for part in parts)

    def number(self, keyword: str) -> float | None:
        """The first value, or None."""
        return next(iter(self.numbers(keyword)), None)

    def pair(self, first: str, second: str) -> tuple[float, float] | None:
        """Two numbers that go together, or None where neither is there.

        Raises:
            Unusable: as :meth:`numbers`, or one is there without the other.
        """
        one, other = self.number(first), self.number(second)
        if one is None and other is None:
            return None
        if one is None:
            reject(first, f"is missing, and there is a {dictionary_description(second)}")
        if other is None:
            reject(second, f"is missing, and there is a {dictionary_description(first)}")
        return one, other

    def whole(self, keyword: str) -> int:
        """A whole number that has to be there."""
        number = self.number(keyword)
        return reject(keyword, "is missing") if number is None else int(number)

    def term(self, keyword: str) -> str | None:
        """The value of an element of :data:`TERMS` in capitals, or None."""
        wanted, value = TERMS[keyword], self._value(keyword)
        if value is None:
            return None
        term = str(value).strip(" \0").upper()
        return term if term in wanted else reject(keyword, "is not one that is supported")

    def items(self, keyword: str, most: int | None = None) -> list[Module]:
        """The items of an element of :data:`SEQUENCES`; none where it is absent or empty.

        Args:
            keyword: of the element.
            most: how many of them; by default all.
        """
        assert keyword in SEQUENCES
        value = self._value(keyword)
        if value is None:
            return []
        if not isinstance(value, Sequence):
            reject(keyword, "cannot be read")
        return [Module(item) for item in value[:most]]

    def table(self, keyword: str) -> Any:  # noqa: ANN401 - bytes, a number or some, as the VR has it
        """The value of an element of :data:`TABLES`, which has to be there."""
        assert keyword in TABLES
        value = self._value(keyword)
        return reject(keyword, "is missing") if value is None else value

    def has_overlay_beside(self, stored: int) -> bool:
        """Whether bits above the stored ones are said to be an overlay (PS3.3, C.9.2, retired)."""
        places = (self._dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))
        values = [place.value for place in places if place is not None]
        return any(isinstance(value, int) and value >= stored for value in values)

    def _value(self, keyword: str) -> Any:  # noqa: ANN401 - whatever stands in a file
        try:
            value = self._dataset[keyword].value if keyword in self._dataset else None
        except Exception:  # noqa: BLE001 - a value that cannot be converted raises whatever its VR's reader does
            reject(keyword, "cannot be read")
        empty = isinstance(value, str | bytes | MultiValue | list | tuple | Sequence) and not value
        return None if empty else value


@dataclass(frozen=True)
class Layout:
    """How the pixels of a file are stored (PS3.3, C.7.6.3.1).

    Attributes:
        rows: of a frame.
        columns: of a frame.
        frames: of the file.
        samples: of a pixel.
        allocated: bits that a sample takes.
        stored: of these, the bits that hold it.
        signed: whether it is in two's complement.
        integer: whether it is a whole number; else floating point.
        photometric: what it means, one of :data:`TERMS`.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    integer: bool
    photometric: str

    @classmethod
    def of(cls, module: Module, *, integer: bool) -> Layout:
        """Read the layout.

        Raises:
            Unusable: an element is missing, cannot be read, or contradicts another.
        """
        allocated = module.whole("BitsAllocated")
        if allocated not in ((1, 8, 16, 32, 64) if integer else (32, 64)):
            reject("BitsAllocated", f"is {allocated}, which nothing reads")
        frames = module.whole("NumberOfFrames") if module.has("NumberOfFrames") else 1
        samples = module.whole("SamplesPerPixel")
        photometric = module.term("PhotometricInterpretation")
        if photometric is None:
            reject("PhotometricInterpretation", "is missing")
        grey = photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
        if samples != (1 if grey else 3):
            reject("SamplesPerPixel", f"is {samples}, and the photometric interpretation differs")
        if samples > 1:
            module.whole("PlanarConfiguration")
        stored, signed = allocated, False
        if integer:
            stored = module.whole("BitsStored")
            signed = module.whole("PixelRepresentation") == 1
            if stored > allocated:
                reject("BitsStored", "is more than Bits Allocated (0028,0100)")
            # Nothing decodes samples that stand elsewhere (PS3.5, 8.1.1 no longer allows them).
            if module.has("HighBit") and module.whole("HighBit") != stored - 1:
                reject("HighBit", "is not Bits Stored (0028,0101) less one")
        rows, columns = module.whole("Rows"), module.whole("Columns")
        return cls(rows, columns, frames, samples, allocated, stored, signed, integer, photometric)

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and highest value that fits the stored bits."""
        if not self.integer:
            return -math.inf, math.inf
        if self.signed:
            return -(2.0 ** (self.stored - 1)), 2.0 ** (self.stored - 1) - 1
        return 0.0, 2.0**self.stored - 1


def signed_as(value: float, *, signed: bool) -> float:
    """A number of sixteen bits that its writer may have stored with the other sign."""
    return (value + 2**15) % 2**16 - 2**15 if signed else value % 2**16


def reject(keyword: str, why: str) -> NoReturn:
    """Reject a file for one of its elements.

    Raises:
        Unusable: always.
    """
    tag = tag_for_keyword(keyword)
    assert tag is not None
    name = dictionary_description(tag)
    raise Unusable(Reason.UNDECODABLE, f"{name} {str(Tag(tag)).replace(' ', '')} {why}")


def _number(keyword: str, wanted: Number, value: object) -> float:
    text = str(value).strip(" \0")
    number = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not math.isfinite(number):
        comma = "; numbers in DICOM have a decimal point, not a comma" if "," in text else ""
        reject(keyword, f"is not a number{comma}")
    faults = {
        "is not a whole number": wanted.whole and not number.is_integer(),
        "is 0": wanted.nonzero and number == 0,
        f"is less than {wanted.least:g}": number < wanted.least,
        f"is more than {wanted.most:g}": number > wanted.most,
    }
    for why, found in faults.items():
        if found:
            reject(keyword, why)
    return number
