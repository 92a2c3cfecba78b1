"""Images of several kinds, and what a model could have said about them."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage

from client.objects.maker import Maker
from simulations.hospitals.dicom_writer import (
    Equipment,
    Instance,
    Plane,
    Storage,
    byte_dataset,
    grey_dataset,
    to_bytes,
    uid,
)

WHEN: Final = datetime(2026, 3, 4, 5, 6, 7)
MAKER: Final = Maker("lesions-of-the-liver", "0.1.0", "ab" * 32)
CLASSES: Final = ("liver", "lesion of the liver", "Gefäß")
SHAPE: Final = (13, 11)
"""Rows and columns whose product is no multiple of 8: frames of bits begin inside a byte."""
NAMES: Final = {
    "latin": ("ISO_IR 100", "Müller-Lüdenscheidt^Jürgen"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东="),
    "arabic": ("ISO_IR 127", "قباني^لنزار"),
    "unicode": ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
}
"""Character set and name of a patient (PS3.5, annexes H to K)."""
DCIODVFY: Final = shutil.which("dciodvfy")


def read_again(dataset: Dataset) -> FileDataset:
    """A data set as another program writes and reads it."""
    return dcmread(BytesIO(to_bytes(dataset)))


def image(modality: str, number: int = 0, *, plane: bool = True, at: float = 0.0) -> FileDataset:
    """One image of a series, as read."""
    where = Plane((0.8, 0.7), (-10, 20.5, at), 2.5, uid("frame")) if plane else None
    instance = Instance(
        *("P-0042", uid("study"), uid("series", modality), uid("image", modality, number)),
        *("20260102", number + 1, "north"),
        plane=where,
    )
    rng = np.random.default_rng(number)
    equipment = Equipment("Maker of scanners", "Model 1", "1.0", modality, "ABDOMEN")
    if modality == "US":
        pixels = rng.integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
        return read_again(byte_dataset(instance, equipment, "explicit", pixels))
    storage = Storage("explicit", 12, 0, 4095, slope=1.0 if modality == "CT" else None)
    made = grey_dataset(instance, equipment, storage, rng.random(SHAPE))
    if modality == "DX":
        made.ImagerPixelSpacing = ["0.14", "0.14"]
    return read_again(made)


def series(modality: str, count: int = 3) -> list[Dataset]:
    """Slices from head to feet, though files are read from the feet."""
    return [image(modality, number, at=-2.5 * number) for number in range(count)]


def many_frames(count: int = 3) -> FileDataset:
    """An enhanced MR image: its planes are in functional groups (PS3.3, C.7.6.16)."""
    made = image("MR", plane=False)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    made.NumberOfFrames, made.FrameOfReferenceUID = count, uid("frame")
    made.PixelData = made.PixelData * count
    measures, directions, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ["0.8", "0.7"], "2.5"
    directions.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([directions])
    made.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for number in range(count):
        plane, group = Dataset(), Dataset()
        plane.ImagePositionPatient = [-10, 20.5, 2.5 * number]
        group.PlanePositionSequence = Items([plane])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Items(groups)
    return read_again(made)


def marks(frames: int, *, classes: int = 2, empty: int | None = None) -> NDArray[np.uint8]:
    """Masks with those classes scattered; nothing on frame ``empty``."""
    rng = np.random.default_rng(frames)
    found = rng.integers(0, classes + 1, (frames, *SHAPE), dtype=np.uint8)
    if empty is not None:
        found[empty] = 0
    return found


def named(source: Dataset, script: str) -> FileDataset:
    """An image of a patient with a name in that script, written in its character set."""
    characters, name = NAMES[script]
    source.SpecificCharacterSet, source.PatientName = characters, name
    return read_again(source)


def written(dataset: Dataset, path: Path) -> Path:
    """A file of the data set."""
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def complaints(path: Path) -> list[str]:
    """What dciodvfy calls an error. The test is skipped where it is not installed."""
    if DCIODVFY is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    said = subprocess.run(
        [DCIODVFY, str(path)],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    lines = (said.stdout + said.stderr).decode("utf-8", "replace").splitlines()
    assert lines, "dciodvfy says what kind of object it reads"
    return [line for line in lines if "Error" in line]
