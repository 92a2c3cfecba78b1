"""Hospitals as arrays that take no time to make, and a study of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from simulations.archives.manifest import Hospitals, read_hospitals
from simulations.hospitals.array_writer import write_array_hospitals
from simulations.partitions.divided import Part
from tests.common.studies import document

SIDE = 8


def part(patients: int, seed: int) -> Part:
    """Dark squares, and bright ones for the second class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, patients)
    images = rng.integers(0, 120, (patients, SIDE, SIDE)) + 100 * labels[:, None, None]
    return Part(images.astype(np.uint8), labels.astype(np.int64), np.arange(patients))


def square_hospitals(folder: Path, sites: int = 3, patients: int = 24) -> Hospitals:
    """So many hospitals of so many patients each."""
    write_array_hospitals(
        folder,
        {f"site-{number:03d}": part(patients, number) for number in range(sites)},
        part(30, 10_000),
        {
            "kind": "arrays",
            "seed": 0,
            "dataset": "chest-xray",
            "redraws": 0,
            "classes": ["normal", "pneumonia"],
        },
        split=(0.8, 0.2, 0.0),
    )
    return read_hospitals(folder)


def square_study(path: Path, **sections: dict[str, Any]) -> Path:
    """Write the small study for them."""
    changed = {"data": {"image_size": [SIDE, SIDE], "min_patients": 1}} | sections
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(document(**changed)))
    return path
