"""Targets of each form, as the engine takes them: of real patients, and made up."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.data.cohort import Patient
from client.training.augmentation import move_masks
from common.study.study_file import Augmentation
from common.tasks.task import TargetForm, Task


class Targets(Protocol):
    """What is done with the targets of one form."""

    def of(
        self, patient: Patient, rows: npt.NDArray[np.int64], masks: npt.NDArray[Any] | None
    ) -> torch.Tensor:
        """The targets of some of a patient's images, (images, ...). Sensitive.

        Args:
            patient: whose.
            rows: of the images among the cohort's.
            masks: of all images, where the form is ``mask``.
        """
        ...

    def moved(
        self, targets: torch.Tensor, settings: Augmentation, draws: torch.Tensor
    ) -> torch.Tensor:
        """The targets of images that are augmented by these draws."""
        ...

    def made_up(self, task: Task, patients: int, items: int, size: tuple[int, int]) -> torch.Tensor:
        """Targets of patients that do not exist, (patients,) or (patients, items, ...).

        Args:
            task: whose classes all occur, if there are enough patients.
            patients: how many.
            items: of each.
            size: height and width of an image.
        """
        ...


class _OfPatients:
    """One for all images of a patient, whatever is done with these."""

    def moved(
        self, targets: torch.Tensor, settings: Augmentation, draws: torch.Tensor
    ) -> torch.Tensor:
        del settings, draws
        return targets


class _Labels(_OfPatients):
    def of(
        self, patient: Patient, rows: npt.NDArray[np.int64], masks: npt.NDArray[Any] | None
    ) -> torch.Tensor:
        del masks
        return torch.full((len(rows),), int(patient.label), dtype=torch.int64)

    def made_up(self, task: Task, patients: int, items: int, size: tuple[int, int]) -> torch.Tensor:
        del items, size
        return torch.arange(patients) % len(task.classes)


class _Values(_OfPatients):
    def of(
        self, patient: Patient, rows: npt.NDArray[np.int64], masks: npt.NDArray[Any] | None
    ) -> torch.Tensor:
        del masks
        return torch.full((len(rows),), float(patient.label), dtype=torch.float32)

    def made_up(self, task: Task, patients: int, items: int, size: tuple[int, int]) -> torch.Tensor:
        del items, size
        return torch.linspace(*task.ends, patients)


class _Masks:
    def of(
        self, patient: Patient, rows: npt.NDArray[np.int64], masks: npt.NDArray[Any] | None
    ) -> torch.Tensor:
        del patient
        assert masks is not None, "the cohort was read without masks"
        return torch.from_numpy(np.asarray(masks[rows], dtype=np.int64))

    def moved(
        self, targets: torch.Tensor, settings: Augmentation, draws: torch.Tensor
    ) -> torch.Tensor:
        return move_masks(targets, settings, draws)

    def made_up(self, task: Task, patients: int, items: int, size: tuple[int, int]) -> torch.Tensor:
        """Stripes of all classes, another beginning for each item."""
        begin = torch.arange(patients * items).view(patients, items, 1, 1)
        stripe = torch.arange(size[0]).view(1, 1, -1, 1) * (len(task.classes) + 1) // size[0]
        found = (begin + stripe) % (len(task.classes) + 1)
        return found.expand(patients, items, *size).contiguous()


TARGETS: dict[TargetForm, Targets] = {"label": _Labels(), "value": _Values(), "mask": _Masks()}
"""By form."""
