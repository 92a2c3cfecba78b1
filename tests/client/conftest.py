"""DICOM files as hospitals have them, written by pydicom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

Pixels = NDArray[Any]
MakeDataset = Callable[..., Dataset]
WriteDicom = Callable[..., Path]


def _dataset(pixels: Pixels | None = None, **elements: object) -> Dataset:
    """A grey or colour image; ``elements`` are added, those that are None are left out."""
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16 if pixels is None else pixels
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.PatientID = "P-0001"
    dataset.Modality = "CR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if pixels.ndim > (3 if colour else 2):
        dataset.NumberOfFrames = len(pixels)
    _put(dataset, pixels)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
    return dataset


def _put(dataset: Dataset, pixels: Pixels) -> None:
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated = bits
    if pixels.dtype.kind == "f":
        keyword = "FloatPixelData" if bits == 32 else "DoubleFloatPixelData"
        setattr(dataset, keyword, pixels.tobytes())
        return
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def _write(
    path: Path, pixels: Pixels | None = None, *, syntax: UID | None = None, **elements: object
) -> Path:
    """Write a file; ``syntax`` compresses it."""
    dataset = _dataset(pixels, **elements)
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """A function that makes a data set."""
    return _dataset


@pytest.fixture(scope="session")
def write_dicom() -> WriteDicom:
    """A function that writes a DICOM file."""
    return _write
