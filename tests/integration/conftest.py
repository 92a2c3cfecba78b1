"""Four tiny hospitals of bright and dark squares, and runs of the real command on them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.launcher import Launcher

SITES = ("alder", "birch", "cedar")
PATIENTS = 40
SIDE = 16

STUDY: dict[str, dict[str, Any]] = {
    "study": {"name": "tiny", "title": "Bright squares"},
    "task": {"classes": ["dark", "bright"]},
    "data": {
        "dataset": "squares",
        "modalities": ["DX"],
        "min_patients": 20,
        "image_size": [SIDE, SIDE],
    },
    "model": {"name": "cnn", "widths": [4], "pooling": "average", "hidden": 0},
    "training": {"rounds": 3, "batch_size": 10, "learning_rate": 1.0},
    "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-5},
    "evaluation": {"rounds": "last", "epsilon_share": 0.5},
    "aggregation": {"strategy": "fedavg", "min_sites": 2},
}

SITE_FILE = """
[site]
name = "{name}"

[data.squares]
images = "images"
labels = "labels.csv"
key = "SOPInstanceUID"
key_column = "SOPInstanceUID"
label_column = "label"
declared_patients = 30
most_patients = 60
split = [0.8, 0.2, 0.0]

[device]
kernels = "modelled"

[policy]
max_epsilon_per_study = 8.0
max_epsilon_total = 20.0
delta = 1e-5
min_sites = 2
approval = "automatic"
allow_known_key = true
"""

Simulate = Callable[..., subprocess.CompletedProcess[str]]
USED = ("simulations.cli.screen", "simulations.runs.run")


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals and a test set; do not change what lies in it."""
    folder = tmp_path_factory.mktemp("hospitals")
    write_hospitals(folder)
    return folder


def write_hospitals(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in (*SITES, "test"):
        write_images(folder / name, generator)
    for name in SITES:
        (folder / name / "site.toml").write_text(SITE_FILE.format(name=name))
    manifest = {"kind": "synth", "seed": 0, "classes": ["dark", "bright"], "sites": list(SITES)}
    (folder / "hospitals.json").write_text(json.dumps(manifest))


def write_images(folder: Path, generator: np.random.Generator, *, contrast: int = 60) -> None:
    """An archive of patients, every other one with a brighter square."""
    (folder / "images").mkdir(parents=True)
    rows = ["SOPInstanceUID,label"]
    for number in range(PATIENTS):
        label = number % 2
        pixels = generator.integers(0, 120, (SIDE, SIDE))
        pixels[4:12, 4:12] += contrast * label
        uid = generate_uid(entropy_srcs=[folder.name, str(number)])
        _write_dicom(folder / "images" / f"{number}.dcm", pixels, uid, f"{folder.name}{number}")
        rows.append(f"{uid},{('dark', 'bright')[label]}")
    (folder / "labels.csv").write_text("\n".join(rows))


def _write_dicom(path: Path, pixels: np.ndarray, uid: UID, patient: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    image.StudyInstanceUID = image.SeriesInstanceUID = generate_uid(entropy_srcs=[uid])
    image.PatientID, image.Modality = patient, "DX"
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = pixels.astype(np.uint8).tobytes()
    image.save_as(path, enforce_file_format=True)


def study_text(**changes: dict[str, Any]) -> str:
    """The tiny study as TOML, keys of some sections changed or, with None, left out."""
    lines = []
    for section in {**STUDY, **changes}:
        lines.append(f"[{section.replace('__', '.')}]")
        values = STUDY.get(section, {}) | changes.get(section, {})
        given = {key: value for key, value in values.items() if value is not None}
        lines += [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    return "\n".join(lines)


@pytest.fixture(scope="session")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulate]:
    """Run ``consilium-sim`` in a process of its own, which may be killed."""
    study = tmp_path_factory.mktemp("calibrated") / "study.toml"
    study.write_text(study_text())
    with Launcher("simulations.cli.app", USED, study) as launcher:
        yield launcher
