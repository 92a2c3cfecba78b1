"""Radiographs that no patient is in, as arrays: for what is tried without DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from client.data.cohort import Patient
from common.study.study_file import Study
from simulations.hospitals.phantom import Scanner, draw_anatomy, render
from simulations.hospitals.scanners import hospitals

TESTED: Final = 400
PUBLIC: Final = 400
"""Radiographs that a projection is whitened on."""


def looks(count: int) -> list[Scanner]:
    """What the scanners of so many synthetic hospitals make of a chest."""
    return [each.look for _, each in hospitals(count)]


def radiographs(
    scanners: Sequence[Scanner], count: int, seed: int, side: int = 28
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Drawn chests, each by the next scanner in turn, half of them with opacities.

    Args:
        scanners: one or more.
        count: of images.
        seed: of all that is drawn.
        side: pixels of an image's side.

    Returns:
        (count, 1, side, side) in [0, 1], and 1 where there is an opacity, (count,).
    """
    generator = np.random.default_rng(seed)
    pictures, labels = [], []
    for number in range(count):
        look = scanners[number % len(scanners)]
        labels.append(int(generator.integers(2)))
        anatomy = draw_anatomy(generator, look, affected=bool(labels[-1]))
        pictures.append(render(anatomy, look, (2 * side, 2 * side), generator))
    found = torch.from_numpy(np.stack(pictures)).float()[:, None]
    pixels = functional.avg_pool2d(found, 2).clamp(0.0, 1.0).numpy()
    return pixels, np.array(labels, dtype=np.int64)


class DrawnHospitals:
    """Hospitals of drawn radiographs, and others to judge by.

    Args:
        study: how large its images are.
        patients: of each hospital, one image of each.
    """

    def __init__(self, study: Study, patients: Sequence[int]) -> None:
        self._study = study
        scanners = looks(len(patients))
        self.sites = [
            self._of(radiographs([look], count, number + 1, self._side))
            for number, (look, count) in enumerate(zip(scanners, patients, strict=True))
        ]
        self.test = self._of(radiographs(scanners, TESTED, 0, self._side))
        pixels, _ = radiographs(scanners, PUBLIC, len(patients) + 1, self._side)
        self.public = self._sized(pixels)

    @property
    def _side(self) -> int:
        return max(28, *self._study.data.image_size)

    def _sized(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        height, width = self._study.data.image_size
        rows, columns = (np.arange(each) * self._side // each for each in (height, width))
        sized = pixels[:, :, rows][:, :, :, columns]
        return np.repeat(sized, self._study.data.channels, axis=1).astype(np.float16)

    def _of(
        self, drawn: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.float16], tuple[Patient, ...]]:
        pixels, labels = drawn
        everyone = (
            Patient(f"{number:064x}", int(label), (number,), "")
            for number, label in enumerate(labels)
        )
        return self._sized(pixels), tuple(everyone)
