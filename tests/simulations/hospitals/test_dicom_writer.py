from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import get_args

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID

from client.data.pixels import images
from simulations.hospitals.dicom_writer import (
    SYNTAXES,
    Equipment,
    Storage,
    Syntax,
    byte_dataset,
    grey_dataset,
    stored_values,
    to_bytes,
    uid,
)
from simulations.hospitals.scanners import FOUR
from simulations.hospitals.visit import Visit

DX = Equipment("Exampla Imaging", "Test", "1", "DX", "CHEST")
INSTANCE = Visit("north", 0, 1).describe("north")
STORAGES = {
    f"{hospital.name}-{storage.syntax}": storage
    for hospital in FOUR
    for storage in hospital.storages
}


def picture(shape: tuple[int, int] = (40, 33)) -> np.ndarray:
    """A ramp from black to white: every bit of a scanner is used."""
    return np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)


def written(storage: Storage) -> FileDataset:
    return dcmread(BytesIO(to_bytes(grey_dataset(INSTANCE, DX, storage, picture()))))


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_plain_pydicom_decodes_what_was_stored(storage: Storage) -> None:
    dataset = written(storage)
    assert dataset.file_meta.TransferSyntaxUID == SYNTAXES[storage.syntax]
    assert dataset.BitsStored == storage.bits
    assert np.array_equal(dataset.pixel_array, stored_values(storage, picture()))


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_a_site_sees_the_picture_that_was_drawn(storage: Storage) -> None:
    seen = next(images(written(storage)))
    # Without a window, a reader takes the 0.5th to the 99.5th percentile for the range.
    ramp = (picture() - 0.005) / 0.99 if storage.inverted else picture()
    expected = np.clip(ramp, 0, 1)
    assert np.abs(seen - expected).max() < 2 / 2 ** min(storage.bits, 8)


def test_the_window_of_the_file_maps_the_picture_to_the_whole_range_as_pydicom_does() -> None:
    storage = STORAGES["north-explicit"]
    dataset = written(storage)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    assert np.abs(values / 4095 - picture()).max() < 1e-3


def test_black_is_the_highest_stored_value_of_monochrome1() -> None:
    values = written(STORAGES["east-implicit"])
    assert values.PhotometricInterpretation == "MONOCHROME1"
    assert values.pixel_array[0, 0] > values.pixel_array[-1, -1]


@pytest.mark.parametrize("syntax", get_args(Syntax))
@pytest.mark.parametrize("shape", [(40, 33), (40, 33, 3)])
def test_bytes_come_back_as_value_over_255(syntax: Syntax, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    dataset = dcmread(BytesIO(to_bytes(byte_dataset(INSTANCE, DX, syntax, pixels))))
    assert np.array_equal(dataset.pixel_array, pixels)
    seen = next(images(dataset))
    assert np.array_equal(seen, (pixels / 255.0).astype(np.float32))


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_the_same_image_is_the_same_bytes(storage: Storage) -> None:
    first, second = (to_bytes(grey_dataset(INSTANCE, DX, storage, picture())) for _ in range(2))
    assert first == second


def test_values_beyond_the_bits_are_held_at_the_ends() -> None:
    storage = Storage("explicit", 10, low=0, high=5000)
    assert stored_values(storage, np.array([[0.0, 1.0]])).tolist() == [[0, 1023]]
    signed = Storage("explicit", 12, low=-9000, high=9000, signed=True)
    assert stored_values(signed, np.array([[0.0, 0.5, 1.0]])).tolist() == [[-2048, 0, 2047]]


def test_uids_follow_from_their_parts_and_are_valid() -> None:
    assert uid(0, "north", 1) == uid(0, "north", 1)
    assert uid(0, "north", 1) != uid(1, "north", 1)
    assert UID(uid("a")).is_valid
    assert uid("a").startswith("2.25.")


def test_what_the_header_says() -> None:
    instance = replace(INSTANCE, burned_in=True, comment="drawn")
    dataset = grey_dataset(instance, DX, STORAGES["north-explicit"], picture())
    assert dataset.PatientName == "SYNTHETIC^PATIENT"
    assert dataset.BurnedInAnnotation == "YES"
    assert dataset.ImageComments == "drawn"
    assert dataset.ImageType == ["ORIGINAL", "PRIMARY"]
