from __future__ import annotations

import struct
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.data.dicom import Reason, Unusable, read
from client.data.pixels import images, is_plain, stored_values, to_channels

MakeDataset = Callable[..., Dataset]
WriteDicom = Callable[..., Path]

UNDECODABLE = {
    "liver_deflate.dcm",  # a transfer syntax that pydicom does not know
    "liver_nonbyte_aligned_deflate.dcm",
    "liver_nonbyte_aligned_rle.dcm",  # RLE of single bits
    "liver_rle.dcm",
}
OURS_ALONE = {
    "OT-PAL-8-face.dcm",  # names no transfer syntax
    "emri_small_jpeg_2k_lossless_too_short.dcm",  # only the delimiter after its pixels is missing
}


def reference(path: Path) -> NDArray[Any]:
    """What pydicom gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name in OURS_ALONE:
            content = path.read_bytes() + bytes.fromhex("feffdde000000000")
            dataset = dcmread(BytesIO(content), force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            return dataset.pixel_array
        return dcmread(path, force=True).pixel_array


def test_varied_files_decode_to_what_pydicom_gives_and_four_are_undecodable(
    shared_data: Path,
) -> None:
    decoded, undecodable = 0, set()
    for path in sorted((shared_data / "dicom_varied").iterdir()):
        try:
            stored = stored_values(read(path).dataset)[0]
        except Unusable as verdict:
            assert verdict.reason is Reason.UNDECODABLE
            undecodable.add(path.name)
            continue
        expected = reference(path)
        assert stored.dtype == expected.dtype
        np.testing.assert_array_equal(stored, expected)
        decoded += 1

    assert decoded == 75
    assert undecodable == UNDECODABLE


def test_every_varied_file_that_decodes_is_shown_within_range(shared_data: Path) -> None:
    for path in sorted((shared_data / "dicom_varied").iterdir()):
        if path.name not in UNDECODABLE:
            for image in images(read(path).dataset):
                assert image.dtype == np.float32
                assert 0 <= image.min() <= image.max() <= 1


def test_no_file_of_pydicoms_own_makes_it_crash() -> None:
    verdicts = []
    for name in get_testdata_files():
        try:
            assert all(np.isfinite(image).all() for image in images(read(Path(name)).dataset))
        except Unusable as verdict:
            verdicts.append(verdict.reason)

    assert verdicts.count(Reason.UNDECODABLE) < 10


def test_two_vendors_mr_is_all_decoded(shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom_mr_two_vendor").rglob("*.dcm"))
    for path in paths:
        (image,) = images(read(path).dataset)
        assert image.shape in {(64, 64), (216, 216)}
        assert image.std() > 0.05

    assert len(paths) == 158


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_lossless_transfer_syntaxes_give_the_pixels_back(
    tmp_path: Path, write_dicom: WriteDicom, syntax: UID | None, kind: type[np.integer[Any]]
) -> None:
    limits = np.iinfo(kind)
    pixels = np.random.default_rng(0).integers(limits.min, limits.max, (64, 48), kind)

    path = write_dicom(tmp_path / "a", pixels, syntax=syntax)

    np.testing.assert_array_equal(stored_values(read(path).dataset)[0], pixels)


def test_thirty_two_bits_are_read(tmp_path: Path, write_dicom: WriteDicom) -> None:
    pixels = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    path = write_dicom(tmp_path / "a", pixels, WindowCenter=2**31, WindowWidth=2**32)

    reading = read(path)

    np.testing.assert_array_equal(stored_values(reading.dataset)[0], pixels)
    (image,) = images(reading.dataset)
    np.testing.assert_allclose(image, [[0, 0.5, 1]], atol=1e-6)


def test_every_frame_is_an_image(tmp_path: Path, write_dicom: WriteDicom) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)

    shown = list(images(read(write_dicom(tmp_path / "a", pixels)).dataset))

    np.testing.assert_allclose(np.stack(shown), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_colour_is_scaled_by_its_bits(
    tmp_path: Path, write_dicom: WriteDicom, kind: type[np.integer[Any]]
) -> None:
    top = np.iinfo(kind).max
    pixels = np.array([[[0, top // 5, top], [0, 0, 0]]], kind)

    (image,) = images(read(write_dicom(tmp_path / "a", pixels)).dataset)

    np.testing.assert_allclose(image, np.array([[[0, 0.2, 1], [0, 0, 0]]]), atol=1e-6)


def test_ybr_becomes_rgb(tmp_path: Path, write_dicom: WriteDicom) -> None:
    """Y 76, Cb 85, Cr 255 is red (ITU-T T.871)."""
    pixels = np.array([[[76, 85, 255], [255, 128, 128]]], np.uint8)
    path = write_dicom(tmp_path / "a", pixels, PhotometricInterpretation="YBR_FULL")

    (image,) = images(read(path).dataset)

    np.testing.assert_allclose(image, [[[1, 0, 0], [1, 1, 1]]], atol=2 / 255)


@pytest.mark.parametrize("big_endian", [False, True])
def test_a_palette_is_looked_up_whatever_the_byte_order(
    tmp_path: Path, make_dataset: MakeDataset, big_endian: bool
) -> None:
    dataset = make_dataset(np.array([[0, 1, 9]], np.uint8))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour, entries in (("Red", [0, 65535]), ("Green", [0, 13107]), ("Blue", [65535, 0])):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        words = np.array(entries, ">u2" if big_endian else "<u2").tobytes()
        setattr(dataset, f"{colour}PaletteColorLookupTableData", words)
    if big_endian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "a"
    dataset.save_as(path, enforce_file_format=True)

    (image,) = images(read(path).dataset)

    np.testing.assert_allclose(image, np.array([[[0, 0, 1], [1, 0.2, 0], [1, 0.2, 0]]]), atol=1e-6)


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "CMYK"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"BitsAllocated": 24},
    ],
    ids=["unknown colours", "no palette", "odd bits"],
)
def test_pixels_that_nobody_can_show_are_undecodable(
    make_dataset: MakeDataset, elements: dict[str, object]
) -> None:
    with pytest.raises(Unusable) as verdict:
        list(images(make_dataset(**elements)))

    assert verdict.value.reason is Reason.UNDECODABLE


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": 20000, "Columns": 20000},
        {"NumberOfFrames": 4097},
        {"Rows": 8192, "Columns": 8192, "NumberOfFrames": 17},
    ],
    ids=["a frame", "frames", "all together"],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_pixels_beyond_the_public_bounds_are_not_opened(
    make_dataset: MakeDataset,
    monkeypatch: pytest.MonkeyPatch,
    elements: dict[str, object],
    syntax: UID,
) -> None:
    dataset = make_dataset(**elements)
    dataset.file_meta.TransferSyntaxUID = syntax
    monkeypatch.setattr("client.data.pixels.get_decoder", None)

    with pytest.raises(Unusable) as verdict:
        list(images(dataset))

    assert verdict.value.reason is Reason.TOO_LARGE


def test_plain_pixels_need_neither_decoder_nor_palette(make_dataset: MakeDataset) -> None:
    assert is_plain(make_dataset())
    assert not is_plain(make_dataset(PhotometricInterpretation="PALETTE COLOR"))
    packed = make_dataset()
    packed.file_meta.TransferSyntaxUID = RLELossless
    assert not is_plain(packed)


def test_grey_fills_three_channels() -> None:
    grey = np.array([[0.25, 0.5]], np.float32)

    assert to_channels(grey, 1).tolist() == [[[0.25, 0.5]]]
    assert to_channels(grey, 3).tolist() == [[[0.25, 0.5]]] * 3


def test_colour_becomes_luminance_or_stays() -> None:
    colour = np.eye(3, dtype=np.float32).reshape(1, 3, 3)

    np.testing.assert_allclose(to_channels(colour, 1), [[[0.299, 0.587, 0.114]]], atol=1e-6)
    np.testing.assert_array_equal(to_channels(colour, 3), np.eye(3).reshape(3, 1, 3))


def rle_words(dataset: Dataset, high: bytes, low: bytes) -> Dataset:
    """Words as RLE (PS3.5, Annex G): their upper halves, then their lower ones."""
    header = struct.pack("<16I", 2, 64, 64 + len(runs(high)), *[0] * 13)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([header + runs(high) + runs(low)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def runs(raw: bytes) -> bytes:
    body = b"".join(
        bytes([len(raw[at : at + 100]) - 1]) + raw[at : at + 100] for at in range(0, len(raw), 100)
    )
    return body + b"\0" * (len(body) % 2)


def test_where_one_decoder_panics_another_one_reads_the_pixels(make_dataset: MakeDataset) -> None:
    """One byte too many: pylibjpeg-rle ends in a panic, which is no Exception; pydicom drops it."""
    words = np.random.default_rng(0).integers(0, 4096, (32, 32)).astype("<u2")
    raw = words.tobytes()
    dataset = rle_words(make_dataset(words), raw[1::2] + b"\0", raw[::2] + b"\0")

    np.testing.assert_array_equal(stored_values(dataset)[0], words)


def test_where_one_decoder_panics_and_the_others_fail_there_is_a_verdict(
    make_dataset: MakeDataset,
) -> None:
    words = np.ones((32, 32), "<u2")
    dataset = rle_words(make_dataset(words), b"\0", words.tobytes()[::2] + b"\0")

    with pytest.raises(Unusable) as verdict:
        stored_values(dataset)
    assert verdict.value.reason is Reason.UNDECODABLE


def test_who_ends_the_program_is_no_damaged_file(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in (KeyboardInterrupt, SystemExit, MemoryError):
        monkeypatch.setattr("client.data.pixels.get_decoder", Mock(side_effect=fault))
        with pytest.raises(fault):
            stored_values(make_dataset())


@pytest.mark.parametrize("length", [0, 8])
def test_a_jp2_header_has_an_end_or_a_verdict(make_dataset: MakeDataset, length: int) -> None:
    """A box without a length, at which pydicom stays for ever; and one with it, but no image."""
    dataset = make_dataset(np.ones((8, 8), "<u2"))
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    header = b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a"
    dataset.PixelData = encapsulate([header + length.to_bytes(4, "big") + b"ftyp"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True

    with pytest.raises(Unusable) as verdict:
        stored_values(dataset)
    assert verdict.value.reason is Reason.UNDECODABLE
    assert ("has no length" in verdict.value.detail) == (length == 0)


def test_many_jp2_headers_in_one_chain_are_followed_once(make_dataset: MakeDataset) -> None:
    """From each of them to the end would take hours for a few megabytes."""
    dataset = make_dataset(np.ones((8, 8), "<u2"))
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a" * 8_000])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True

    begun = time.process_time()
    with pytest.raises(Unusable):
        stored_values(dataset)
    assert time.process_time() - begun < 5


def paletted(make_dataset: MakeDataset, descriptor: list[int], entries: list[int]) -> Dataset:
    """A grey palette; the file has two pixels, and its bits are signed."""
    dataset = make_dataset(np.array([[-3, -1]], np.int8))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        dataset.add_new(f"{name}Descriptor", "US", descriptor)
        dataset.add_new(f"{name}Data", "OW", np.array(entries, "<u2").tobytes())
    return dataset


def test_a_palette_begins_at_the_sign_that_the_pixels_have(make_dataset: MakeDataset) -> None:
    """Its first value is -3, written without a sign."""
    (image,) = images(paletted(make_dataset, [3, 2**16 - 3, 16], [0, 13107, 65535]))

    np.testing.assert_allclose(image[..., 0], [[0, 1]])


def test_a_palette_of_bytes_is_not_dark_for_being_called_one_of_words(
    make_dataset: MakeDataset,
) -> None:
    (image,) = images(paletted(make_dataset, [3, 2**16 - 3, 16], [51, 0, 255]))

    np.testing.assert_allclose(image[..., 0], [[0.2, 1]], atol=1e-6)


def test_a_dark_palette_stays_dark(make_dataset: MakeDataset) -> None:
    (image,) = images(paletted(make_dataset, [3, 2**16 - 3, 8], [0, 0, 51]))

    np.testing.assert_allclose(image[..., 0], [[0, 0.2]], atol=1e-6)


def test_a_segmented_palette_is_unpacked(make_dataset: MakeDataset) -> None:
    """Two discrete entries, then a line of two more (PS3.3, C.7.9.2)."""
    dataset = paletted(make_dataset, [4, 2**16 - 3, 16], [])
    for colour in ("Red", "Green", "Blue"):
        delattr(dataset, f"{colour}PaletteColorLookupTableData")
        words = np.array([0, 2, 0, 13107, 1, 2, 65535], "<u2").tobytes()
        dataset.add_new(f"Segmented{colour}PaletteColorLookupTableData", "OW", words)

    (image,) = images(dataset)

    np.testing.assert_allclose(image[..., 0], [[0, 0.6]], atol=1e-4)
