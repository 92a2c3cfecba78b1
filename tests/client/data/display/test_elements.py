"""Every element that decides a pixel, as it should be and otherwise.

Pictures are compared with a reading of this test's own, value by value after PS3.3, C.11: of what
was meant, which the file then says in one of the ways that are found in archives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from client.data.dicom import Reason, Unusable, read
from client.data.display.elements import NUMBERS, SEQUENCES, TERMS
from client.data.pixels import images

MakeDataset = Callable[..., Dataset]
WriteDicom = Callable[..., Path]
Picture = NDArray[np.float32]


def seen(path: Path) -> Picture:
    """The one image of a file."""
    (image,) = images(read(path).dataset)
    return image


def verdict_on(path: Path) -> Unusable:
    with pytest.raises(Unusable) as verdict:
        list(images(read(path).dataset))
    return verdict.value


def sixteen(value: int, *, flip: bool) -> tuple[str, int]:
    """A number of 16 bits as US or SS; flipped, with the sign that it has not."""
    if flip and value < 0:
        value += 2**16
    elif flip and value >= 2**15:
        value -= 2**16
    return ("SS" if value < 0 else "US"), value


@dataclass(frozen=True)
class Table:
    """A lookup table as it is meant, and how it is written.

    Attributes:
        first: the value that becomes its first entry.
        entries: of ``bits`` bits.
        bits: so many.
        stated: bits, in its descriptor.
        flip: the first value has the other sign.
        data: numbers, words in bytes, or single bytes.
    """

    first: int
    entries: list[int]
    bits: int
    stated: int
    flip: bool = False
    data: str = "US"

    def __call__(self, value: float) -> int:
        return self.entries[min(max(math.floor(value) - self.first, 0), len(self.entries) - 1)]

    def written(self, order: str) -> Sequence:
        item = Dataset()
        vr, first = sixteen(self.first, flip=self.flip)
        count = len(self.entries) % 2**16
        item.add(DataElement(0x00283002, vr, [count, first, self.stated]))
        if self.data == "US":
            item.add(DataElement(0x00283006, "US", self.entries))
        elif self.data == "OW":
            words = np.array(self.entries, f"{order}u2").tobytes()
            item.add(DataElement(0x00283006, "OW", words))
        else:
            packed = bytes(self.entries) + b"\0" * (len(self.entries) % 2)
            words = np.frombuffer(packed, "<u2").astype(f"{order}u2").tobytes()
            item.add(DataElement(0x00283006, "OW", words))
        return Sequence([item])


@dataclass(frozen=True)
class Meant:
    """A picture as it is meant, and how its file says so."""

    pixels: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    bits: int = 12
    signed: bool = False
    rescale: tuple[str, str] | None = None
    modality: Table | None = None
    window: tuple[str, str, str] | None = None
    voi: Table | None = None
    padding: tuple[int, int | None] | None = None
    flip: bool = False
    inverted: bool = False
    small_letters: bool = False
    shape: bool = False
    order: str = "<"

    def picture(self) -> list[float]:
        """After PS3.4, N.2: modality, VOI, presentation."""
        return [self._shown(value) for value in self.pixels]

    def limits(self) -> tuple[int, int]:
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    def given(self, value: float) -> float:
        """What the modality step gives."""
        if self.modality is not None:
            return self.modality(value)
        slope, intercept = map(float, self.rescale or ("1", "0"))
        return value * slope + intercept

    def _shown(self, value: int) -> float:
        if self.padding is not None:
            one, other = self.padding
            ends = one, one if other is None else other
            if min(ends) <= value <= max(ends):
                return 0
        given = self.given(value)
        shown: float
        if self.voi is not None:
            shown = self.voi(given) / (2**self.voi.bits - 1)
        else:
            assert self.window is not None
            centre, width = map(float, self.window[:2])
            shown = windowed(given, centre, width, self.window[2].strip().upper() or "LINEAR")
        return 1 - shown if self.inverted else shown

    def write(self, path: Path, make_dataset: MakeDataset) -> Path:
        kind = f"{self.order}{'i' if self.signed else 'u'}{1 if self.bits <= 8 else 2}"
        pixels = np.array([self.pixels], kind)
        dataset = make_dataset(pixels, BitsStored=self.bits, HighBit=self.bits - 1)
        term = "MONOCHROME1" if self.inverted else "MONOCHROME2"
        dataset.PhotometricInterpretation = term.lower() if self.small_letters else term
        if self.shape:
            dataset.PresentationLUTShape = "INVERSE" if self.inverted else "IDENTITY"
        if self.rescale is not None:
            dataset.RescaleSlope, dataset.RescaleIntercept = self.rescale
        if self.modality is not None:
            dataset.ModalityLUTSequence = self.modality.written(self.order)
        if self.window is not None:
            dataset.WindowCenter, dataset.WindowWidth = self.window[:2]
            if self.window[2]:
                dataset.VOILUTFunction = self.window[2]
        if self.voi is not None:
            dataset.VOILUTSequence = self.voi.written(self.order)
        if self.padding is not None:
            for tag, value in zip((0x00280120, 0x00280121), self.padding, strict=True):
                if value is not None:
                    dataset.add(DataElement(tag, *sixteen(value, flip=self.flip)))
        little = self.order == "<"
        syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, enforce_file_format=True)
        return path


def windowed(value: float, centre: float, width: float, function: str) -> float:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3, as they are written there."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(min(700, -4 * (value - centre) / width)))
    if function == "LINEAR_EXACT":
        if value <= centre - width / 2:
            return 0
        return 1 if value > centre + width / 2 else (value - centre) / width + 0.5
    if value <= centre - 0.5 - (width - 1) / 2:
        return 0
    if value > centre - 0.5 + (width - 1) / 2:
        return 1
    return (value - (centre - 0.5)) / (width - 1) + 0.5


@st.composite
def tables(draw: st.DrawFn, low: int, high: int) -> Table:
    """A table for values from ``low`` to ``high``."""
    bits = draw(st.integers(4, 16))
    count = draw(st.one_of(st.integers(2, 40), st.sampled_from([255, 4096, 65536])))
    entries = np.linspace(0, 2**bits - 1, count).astype(int)
    if draw(st.booleans()):
        entries = entries[::-1]
    return Table(
        draw(st.integers(low, high)),
        [int(entry) for entry in entries],
        bits,
        draw(st.integers(max(bits, 8), 16)),
        draw(st.booleans()),
        draw(
            st.sampled_from(["OW", "bytes" if bits <= 8 else "OW", "US" if count < 256 else "OW"])
        ),
    )


def sixteen_bits(low: float, high: float) -> tuple[int, int]:
    """The first values that a table for a range can have, by the range's sign."""
    if low < 0 and high >= 2**15:
        return 0, 2**15 - 1  # the same with either sign
    return (-(2**15), 2**15 - 1) if low < 0 else (0, 2**16 - 1)


@st.composite
def pictures(draw: st.DrawFn) -> Meant:
    """Pictures of which the header says everything, in some way or other."""
    bits, signed = draw(st.sampled_from([8, 10, 12, 15, 16])), draw(st.booleans())
    plain = Meant(bits=bits, signed=signed)
    low, high = plain.limits()
    modality, rescale = None, None
    kind = draw(st.sampled_from(["none", "slope", "table"]))
    if kind == "slope":
        slopes = st.sampled_from(["1", "1.5", " -1 ", "0.25", "2e0", "+1.0"])
        rescale = draw(slopes), draw(st.sampled_from(["0", "-1024", "32.5", "40000"]))
    elif kind == "table":
        modality = draw(tables(*sixteen_bits(low, high)))
    plain = Meant(bits=bits, signed=signed, rescale=rescale, modality=modality)
    ends = sorted(map(plain.given, (low, high)))
    if modality is not None:
        ends = [min(modality.entries), max(modality.entries)]
    voi, window = None, None
    if draw(st.booleans()):
        voi = draw(tables(*sixteen_bits(*ends)))
    else:
        functions = st.sampled_from(["", "LINEAR", "LINEAR_EXACT", "SIGMOID", "sigmoid "])
        width = draw(st.integers(2, 70000))
        window = str(draw(st.integers(-70000, 70000))), str(width), draw(functions)
    values = st.integers(low, high)
    starts = [low, high]
    if voi is not None and kind == "none":
        starts += [min(max(voi.first + place, low), high) for place in (-1, 0, 1, 7)]
    pixels = draw(st.lists(st.one_of(values, st.sampled_from(starts)), min_size=2, max_size=9))
    padding = None
    if draw(st.booleans()):
        padding = draw(st.sampled_from(pixels)), draw(st.one_of(st.none(), values))
    return Meant(
        pixels,
        bits,
        signed,
        rescale,
        modality,
        window,
        voi,
        padding,
        flip=draw(st.booleans()),
        inverted=draw(st.booleans()),
        small_letters=draw(st.booleans()),
        shape=draw(st.booleans()),
        order=draw(st.sampled_from("<>")),
    )


RAMP = list(range(0, 4096, 273))
ENTRIES = list(range(4096))
WINDOW = ("3072", "6144", "")
NARROW = Meant(RAMP, voi=Table(0, ENTRIES, 12, 16))
OTHER_SIGN = Meant(
    [value + 40000 for value in RAMP], 16, voi=Table(40000, ENTRIES, 12, 12, flip=True)
)
SIGNED_TABLE = Meant(
    [value - 2048 for value in RAMP], 16, signed=True, voi=Table(-2048, ENTRIES, 12, 12, flip=True)
)
PADDED = Meant(
    [-2000, *RAMP], 16, signed=True, window=("0", "8192", ""), padding=(-2000, None), flip=True
)
INVERTED_PADDING = Meant(
    [-2000, *RAMP],
    16,
    signed=True,
    window=("2048", "4096", ""),
    padding=(-2000, -1990),
    flip=True,
    inverted=True,
)


@settings(max_examples=200)
@given(pictures())
@example(NARROW)
@example(OTHER_SIGN)
@example(SIGNED_TABLE)
@example(PADDED)
@example(INVERTED_PADDING)
def test_a_picture_is_what_was_meant_however_its_header_says_so(
    tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset, meant: Meant
) -> None:
    path = meant.write(tmp_path_factory.getbasetemp() / "meant", make_dataset)
    expected = np.array([meant.picture()], np.float32)

    if (expected == expected[0, 0]).all():
        assert verdict_on(path).reason is Reason.BLANK
    else:
        np.testing.assert_allclose(seen(path), expected, atol=1e-6)


def test_pydicom_gives_the_same_where_headers_are_as_they_should_be(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    signed = Meant(
        [-2048, -7, 0, 900, 2047],
        signed=True,
        modality=Table(-2048, [int(each) for each in np.arange(4096) ** 2 // 4096], 12, 16),
        voi=Table(100, [int(each) for each in np.arange(3000) ** 2 // 2198], 12, 12),
    )
    path = signed.write(tmp_path / "a", make_dataset)
    dataset = dcmread(path)
    theirs = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)

    np.testing.assert_allclose(seen(path), theirs / 4095, atol=1e-6)


def base(make_dataset: MakeDataset, keyword: str) -> tuple[Dataset, Dataset]:
    """A file in which an element decides the picture, and what has the element."""
    pixels = np.array([[0, 1], [200, 255]], np.uint8)
    if keyword == "PlanarConfiguration":
        dataset = make_dataset(np.stack([pixels] * 3, axis=-1))
        return dataset, dataset
    if keyword.startswith(("Float", "Double")):
        kind = np.float32 if keyword.startswith("Float") else np.float64
        dataset = make_dataset(pixels.astype(kind))
        where = keyword.replace("RangeLimit", "Value")
        setattr(dataset, where, 1.0)
        return dataset, dataset
    dataset = make_dataset(pixels, NumberOfFrames=1)
    item = dataset
    if "Palette" in keyword:
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for colour in ("Red", "Green", "Blue"):
            name = f"{colour}PaletteColorLookupTable"
            setattr(dataset, f"{name}Descriptor", [256, 0, 8])
            setattr(dataset, f"{name}Data", bytes(range(256)))
    elif keyword.startswith("LUT") or keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        dataset.VOILUTSequence = Table(0, list(range(256)), 8, 8).written("<")
        item = dataset.VOILUTSequence[0] if keyword.startswith("LUT") else dataset
    elif keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        item = Dataset()
        dataset.SharedFunctionalGroupsSequence = Sequence([item])
    else:
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = 1, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
        dataset.WindowCenter, dataset.WindowWidth = "128", "256"
    return dataset, item


def put(item: Dataset, keyword: str, value: object, vr: str = "") -> int:
    """Put any value into an element; gives its tag."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    item[tag] = DataElement(tag, vr or dictionary_VR(tag).split()[0], value, validation_mode=0)
    return tag


WRONG: list[tuple[str, object]] = [
    ("LO", "1,5000"),
    ("LO", "about 3"),
    ("LO", "1_0"),
    ("LO", "NaN"),
    ("LO", "-inf"),
    ("LO", "1e999"),
    ("LO", ["", "1"]),
    ("FD", math.nan),
    ("FD", math.inf),
    ("OB", b"\xff\xfe\xfd\xfc"),
    ("SQ", Sequence([Dataset()])),
]


@pytest.mark.parametrize("keyword", [*NUMBERS, *TERMS, *SEQUENCES])
def test_an_element_that_cannot_be_read_is_not_absent(
    tmp_path: Path, make_dataset: MakeDataset, keyword: str
) -> None:
    """Every element of the list; what is added to it is tested here too."""
    for vr, value in WRONG:
        if keyword in SEQUENCES and vr == "SQ":
            continue
        dataset, item = base(make_dataset, keyword)
        tag = put(item, keyword, value, vr)
        dataset.save_as(tmp_path / "a", enforce_file_format=True)

        verdict = verdict_on(tmp_path / "a")

        assert verdict.reason is Reason.UNDECODABLE, (vr, value)
        named = dictionary_description(tag) in verdict.detail or keyword in verdict.detail
        assert named, (vr, value, verdict.detail)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("RescaleSlope", "0"),
        ("RescaleSlope", ["1", "2"]),
        ("RescaleSlope", ""),
        ("RescaleIntercept", ""),
        ("WindowWidth", "0"),
        ("WindowWidth", "-100"),
        ("WindowWidth", "0.5"),
        ("WindowWidth", ""),
        ("WindowCenter", ""),
        ("VOILUTFunction", "CUBIC"),
        ("PresentationLUTShape", "INVERSE"),
        ("PresentationLUTShape", "LIN OD"),
        ("PhotometricInterpretation", "MONOCHROME3"),
        ("PixelPaddingValue", None),
        ("Rows", 0),
        ("Rows", 1),
        ("Rows", 3),
        ("Columns", 1),
        ("NumberOfFrames", "0"),
        ("NumberOfFrames", "2"),
        ("SamplesPerPixel", 3),
        ("SamplesPerPixel", 2),
        ("BitsAllocated", 16),
        ("BitsAllocated", 12),
        ("BitsStored", 7),
        ("BitsStored", 9),
        ("HighBit", 6),
        ("PixelRepresentation", 2),
        ("LUTDescriptor", [256, 0]),
        ("LUTDescriptor", [256, 0, 17]),
        ("LUTDescriptor", [256, 0, 0]),
        ("LUTDescriptor", [257, 0, 8]),
        ("LUTDescriptor", [200, 0, 8]),
        ("LUTData", None),
        ("LUTData", []),
    ],
)
def test_a_number_that_cannot_be_meant_rejects_the_file(
    tmp_path: Path, make_dataset: MakeDataset, keyword: str, value: object
) -> None:
    dataset, item = base(make_dataset, keyword)
    if value is None:
        delattr(item, keyword)
    else:
        put(item, keyword, value)
    dataset.save_as(tmp_path / "a", enforce_file_format=True)

    verdict = verdict_on(tmp_path / "a")

    assert verdict.reason is Reason.UNDECODABLE
    assert "(0028," in verdict.detail or "(2050," in verdict.detail, verdict.detail


@pytest.mark.parametrize("comma", ["1,5000", "3072,0"])
def test_a_decimal_comma_is_named(tmp_path: Path, make_dataset: MakeDataset, comma: str) -> None:
    path = Meant(RAMP, rescale=("1.5000", "0"), window=("3072.0", "6144", "")).write(
        tmp_path / "a", make_dataset
    )
    path.write_bytes(path.read_bytes().replace(comma.replace(",", ".").encode(), comma.encode()))

    verdict = verdict_on(path)

    assert "decimal point, not a comma" in verdict.detail
    assert "Rescale Slope" in verdict.detail or "Window Center" in verdict.detail
    assert comma not in verdict.detail


def test_a_long_number_is_judged_in_a_moment(tmp_path: Path, make_dataset: MakeDataset) -> None:
    """It may stand in a small plain file, which is read in the site's own process."""
    dataset, item = base(make_dataset, "WindowCenter")
    put(item, "WindowCenter", "1" * 25_000 + "x", "UT")
    dataset.save_as(tmp_path / "a", enforce_file_format=True)

    before = time.process_time()
    verdict = verdict_on(tmp_path / "a")

    assert "Window Center" in verdict.detail
    assert time.process_time() - before < 2


def test_a_frame_takes_the_first_item_of_many_in_a_moment(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """In the site's own process, too: frames and items of a small file may be thousands."""
    shared = Dataset()
    shared.FrameVOILUTSequence = Sequence([Dataset() for _ in range(10_000)])
    ramp = np.arange(4096 * 4, dtype=np.uint8).reshape(4096, 2, 2)
    sequence = Sequence([shared])
    path = write_dicom(tmp_path / "a", ramp, SharedFunctionalGroupsSequence=sequence)

    dataset = read(path).dataset
    before = time.process_time()

    assert len(list(images(dataset))) == 4096
    assert time.process_time() - before < 4


def test_a_file_is_blank_only_if_every_frame_is(tmp_path: Path, write_dicom: WriteDicom) -> None:
    """Also where it stores a picture, of which its window shows nothing."""
    pixels = np.zeros((3, 2, 2), np.uint8)
    assert verdict_on(write_dicom(tmp_path / "a", pixels)).reason is Reason.BLANK
    colour = np.full((2, 2, 3), (9, 8, 7), np.uint8)
    assert verdict_on(write_dicom(tmp_path / "b", colour)).reason is Reason.BLANK
    pixels[1, 1, 1] = 9
    clipped = write_dicom(tmp_path / "c", pixels, WindowCenter=100, WindowWidth=50)
    assert verdict_on(clipped).reason is Reason.BLANK

    assert len(list(images(read(write_dicom(tmp_path / "d", pixels)).dataset))) == 3


def test_nothing_but_the_list_sees_a_header(root: Path) -> None:
    """Whoever makes pictures would have to import what a data set is."""
    for name in ("greyscale", "lookup"):
        assert "pydicom" not in (root / "client" / "data" / "display" / f"{name}.py").read_text()
