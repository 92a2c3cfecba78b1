"""How fast ``consilium-site check`` reads an archive, beside pydicom alone.

Ten thousand images as hospitals have them, or as many as are named: native CR and DX of 16 bits,
CT in JPEG 2000 and RLE, MR in JPEG-LS. The command reads, hashes, decodes and shows each of them;
its peer only calls ``dcmread`` and ``pixel_array``, in as many processes. They take turns (A B A
B); the ratio is that of the medians, above one where the command is faster. Each starts afresh.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from simulations.hospitals.dicom_writer import Equipment, Instance, byte_dataset, to_bytes, uid

IMAGES: Final = 10_000
TURNS: Final = 2
KINDS: Final = (
    ("DX", 512, None),
    ("CR", 512, None),
    ("DX", 512, None),
    ("CT", 256, JPEG2000Lossless),
    ("CT", 256, RLELossless),
    ("MR", 256, JPEGLSLossless),
)
"""Modality, rows and columns, and how it is compressed: one after the other."""
MASTERS: Final = 4
"""Different pictures of each kind; compressing ten thousand would take longer than to read them."""


def picture(size: int, seed: int) -> NDArray[np.uint16]:
    """A body with soft edges and the noise of a detector, 12 bits."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = 3000 * np.exp(-3 * (rows**2 + (1 + seed / 10) * columns**2))
    noise = np.random.default_rng(seed).normal(0, 8, (size, size))
    return np.asarray(np.clip(body + noise, 0, 4095), np.uint16)


def master(kind: int, seed: int) -> bytes:
    """A file whose identifiers are to be replaced."""
    modality, size, syntax = KINDS[kind]
    study, series, instance = uid("study"), uid("series"), uid("instance")
    shown = Instance("PATIENT-00000", study, series, instance, "20260101", 1, "north")
    equipment = Equipment("Made up", "None", "1", modality, "CHEST")
    dataset = byte_dataset(shown, equipment, "explicit", np.zeros((size, size), np.uint8))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.99999")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = picture(size, seed).tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    return to_bytes(dataset)


def write(folder: Path, images: int) -> None:
    """The archive and its labels."""
    masters = [[master(kind, seed) for seed in range(MASTERS)] for kind in range(len(KINDS))]
    (folder / "images").mkdir()
    rows = ["PatientID,label"]
    for number in range(images):
        content = masters[number % len(KINDS)][number // len(KINDS) % MASTERS]
        name = f"{number:05}".encode()
        content = content.replace(b"PATIENT-00000", b"PATIENT-" + name)
        # A UID's number begins with no zero.
        content = content.replace(b"1.2.3.99999", b"1.2.3." + str(number + 10_000).encode())
        (folder / "images" / f"{number:05}.dcm").write_bytes(content)
        rows.append(f"PATIENT-{number:05},any")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def decode(path: Path) -> int:
    """What pydicom alone does."""
    return int(dcmread(path).pixel_array.size)


@contextmanager
def _timed(taken: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    taken.append(time.perf_counter() - start)


def ours(folder: Path, images: int) -> None:
    """The command, which must find every image good."""
    command = [sys.executable, "-m", "client.cli.app", "check", "--json", "--derived", "accept"]
    places = ["--images", str(folder / "images"), "--labels", str(folder / "labels.csv")]
    done = subprocess.run([*command, *places], check=True, capture_output=True)
    report = json.loads(done.stdout)
    assert report["used"] == images, report["reasons"]


def peer(folder: Path, images: int) -> None:
    """Pydicom alone, in as many processes, started as the command starts its own."""
    paths = sorted((folder / "images").iterdir())
    assert len(paths) == images
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        assert all(pool.imap(decode, paths, chunksize=16))


def main(images: int = IMAGES) -> None:
    """Print images per second of both, side by side."""
    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as ground:
        folder = Path(ground)
        write(folder, images)
        for _ in range(TURNS):
            with _timed(taken["ours"]):
                ours(folder, images)
            with _timed(taken["peer"]):
                peer(folder, images)
    rates = {name: images / statistics.median(each) for name, each in taken.items()}
    result = {
        "name": f"consilium-site check of {images} images, {len(os.sched_getaffinity(0))} "
        "processes; peer: dcmread and pixel_array",
        "ours": round(rates["ours"]),
        "peer": round(rates["peer"]),
        "ratio": round(rates["ours"] / rates["peer"], 2),
        "unit": "images/s",
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
