from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless

from client.data.dicom import Unusable, read
from client.data.pixels import images

MakeDataset = Callable[..., Dataset]
WriteDicom = Callable[..., Path]

PIXELS = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


def detail_of(dataset: Dataset) -> str:
    with pytest.raises(Unusable) as verdict:
        list(images(dataset))
    return verdict.value.detail


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(("rows", "columns"), [(48, 64), (96, 32), (64, 47), (63, 48)])
def test_a_compressed_image_of_another_shape_is_not_sheared(
    make_dataset: MakeDataset, syntax: UID, rows: int, columns: int
) -> None:
    dataset = make_dataset(PIXELS)
    dataset.compress(syntax, generate_instance_uid=False)
    assert len(list(images(dataset))) == 1
    dataset.Rows, dataset.Columns = rows, columns

    assert "is not that of the compressed image" in detail_of(dataset)


def test_a_jpeg_of_another_shape_is_not_sheared() -> None:
    path = get_testdata_file("JPGExtended.dcm")
    assert isinstance(path, str)
    dataset = dcmread(path)
    assert len(list(images(dataset))) == 1
    dataset.Rows, dataset.Columns = dataset.Rows // 2, dataset.Columns * 2

    assert "is not that of the compressed image" in detail_of(dataset)


def test_pixels_after_the_last_are_padding_only_if_they_are_nothing(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset(PIXELS)
    dataset.PixelData += bytes(40)
    assert len(list(images(dataset))) == 1

    dataset.PixelData = dataset.PixelData[:-1] + b"\1"
    assert "fewer pixels than there are" in detail_of(dataset)


@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": 4000}])
def test_values_that_need_more_bits_are_padding_or_the_bits_are_too_few(
    tmp_path: Path, write_dicom: WriteDicom, padding: dict[str, int]
) -> None:
    pixels = np.array([[0, 5, 1023, 4000]], np.uint16)
    stored = {"BitsStored": 10, "HighBit": 9, "WindowCenter": 512, "WindowWidth": 1024}
    dataset = read(write_dicom(tmp_path / "a", pixels, **stored, **padding)).dataset

    if padding:
        (image,) = images(dataset)
        assert image[0, 3] == 0
    else:
        assert "Bits Stored" in detail_of(dataset)


def test_negative_values_may_be_filled_up_with_zeros(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """-1 in twelve bits, the other four being 0."""
    pixels = np.array([[-1, 0x0FFF, 0, 1]], np.int16)
    window = {"WindowCenter": 0, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    path = write_dicom(tmp_path / "a", pixels, BitsStored=12, HighBit=11, **window)

    (image,) = images(read(path).dataset)

    assert image.tolist() == [[0.25, 0.25, 0.5, 0.75]]


def test_bits_of_an_overlay_are_no_values(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 512, 1024, 512 + 0x8000]], np.uint16)
    stored = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 512, "WindowWidth": 1024}
    dataset = make_dataset(pixels, **stored)
    dataset.VOILUTFunction = "LINEAR_EXACT"
    assert "Bits Stored" in detail_of(dataset)

    dataset.add_new(0x60000102, "US", 15)
    (image,) = images(dataset)

    assert image.tolist() == [[0, 0.5, 1, 0.5]]
