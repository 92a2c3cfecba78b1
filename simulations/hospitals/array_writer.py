"""Hospitals as arrays are written: all rows in three files, a site file for each hospital.

What lies where is described in :mod:`simulations.archives.arrays`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.process.progress import Progress, silent
from simulations.archives.arrays import IMAGES, PATIENTS, TARGETS
from simulations.archives.manifest import TEST
from simulations.hospitals.layout import Archive, fresh, write_manifest, write_site
from simulations.partitions.divided import Part

_WHITE: Final = 255.0
_KEY: Final = "PatientID"


def write_array_hospitals(
    out: Path,
    parts: Mapping[str, Part],
    test: Part,
    about: Mapping[str, Any],
    *,
    split: tuple[float, float, float],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write hospitals as arrays.

    Args:
        out: new or empty, or hospitals made before, which are replaced.
        parts: by hospital.
        test: the test set.
        about: the rest of the manifest.
        split: shares of train, validation and test of each hospital.
        progress: told of every hospital.

    Returns:
        The manifest.

    Raises:
        DataError: ``out`` cannot be used.
    """
    everyone = {**parts, TEST: test}
    shape = _shape(test.images)
    total, row = sum(len(part.labels) for part in everyone.values()), 0
    rows, facts = dict[str, tuple[int, int]](), dict[str, dict[str, Any]]()
    with (
        fresh(out) as folder,
        progress("writing arrays", len(everyone), unit="hospitals") as job,
    ):
        images = _opened(folder / IMAGES, np.float16, (total, *shape))
        targets = _opened(folder / TARGETS, np.int64, (total,))
        patients = _opened(folder / PATIENTS, np.int64, (total,))
        for name, part in everyone.items():
            here = slice(row, row + len(part.labels))
            images[here] = _as_decoded(part.images)
            targets[here], patients[here] = part.labels, part.patients
            rows[name] = (here.start, here.stop)
            row = here.stop
            archive = _archive(part, about["classes"])
            if name == TEST:
                facts[name] = archive.facts()
            else:
                (folder / name).mkdir()
                facts[name] = write_site(
                    folder / name, name, archive, about["dataset"], split, arrays=True
                )
            job.advance()
        manifest = {
            **about,
            "sites": list(parts),
            "rows": rows,
            "per_site": {name: facts[name] for name in parts},
            "test": facts[TEST],
        }
        write_manifest(folder, manifest)
    return manifest


def _opened(path: Path, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _shape(images: NDArray[np.uint8]) -> tuple[int, int, int]:
    channels = images.shape[3] if images.ndim == 4 else 1
    return channels, images.shape[1], images.shape[2]


def _as_decoded(images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """``(images, channels, height, width)`` in [0, 1], as these grey values are read from DICOM."""
    scaled = (images.astype(np.float32) / np.float32(_WHITE)).astype(np.float16)
    return np.moveaxis(scaled, 3, 1) if images.ndim == 4 else scaled[:, None]


def _archive(part: Part, classes: list[str]) -> Archive:
    shown: dict[str, set[str]] = {}
    for patient, label in zip(part.patients.tolist(), part.labels.tolist(), strict=True):
        shown.setdefault(str(patient), set()).add(classes[label])
    return Archive(_KEY, shown, len(part.labels), {})
