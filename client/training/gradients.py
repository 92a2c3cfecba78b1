"""The sum over patients of each patient's gradient, clipped where the study is private."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from client.engine.clipped import ClippedSum, Loss, Patients, flat_zeros, plain_sum
from client.training.sampling import Batch
from common.devices.devices import DEVICES
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.tasks.task import Task


class GradientSum:
    """The sum over patients of each patient's gradient, clipped where the study is private.

    A patient's gradient is the mean over the images drawn, so that however many there are,
    adding or removing the patient changes the sum by at most the clip norm.

    Args:
        model: its parameters are read, as they are when a sum is formed.
        mechanism: says whether, and at which norm, to clip.
        task: its loss.
        choice: how gradients are formed.
    """

    def __init__(
        self,
        model: nn.Module,
        mechanism: PatientMechanism | NoMechanism,
        task: Task,
        choice: EngineChoice,
    ) -> None:
        self._model, self._loss, self._choice = model, summed_loss(task), choice
        self._device = DEVICES[choice.device]
        self._clipped: ClippedSum | None = None
        if isinstance(mechanism, PatientMechanism):
            self._clipped = ClippedSum(model, self._loss, mechanism.clip_norm, choice)

    def over(self, batches: Iterable[Batch]) -> torch.Tensor:
        """The sum over all patients of some batches, which may be none.

        Returns:
            Flat float64; the next sum is written over it.

        Raises:
            ModelError: names a module that cannot be trained privately.
        """
        if self._clipped is None:
            return self._plain(batches)
        self._clipped.start()
        for batch in batches:
            self._clipped.add(self._moved(batch))
        return self._clipped.total

    def _moved(self, batch: Batch) -> Patients:
        return Patients(self._device.move(batch.pixels), self._device.move(batch.targets))

    def _plain(self, batches: Iterable[Batch]) -> torch.Tensor:
        total = flat_zeros(self._model)
        for batch in batches:
            patients = self._moved(batch)
            for first in range(0, len(patients), self._choice.tile):
                total += self._finite(patients[slice(first, first + self._choice.tile)])
        return total

    def _finite(self, patients: Patients) -> torch.Tensor:
        """The gradients' sum; where it is not finite, without the patients whose own is not."""
        # Nothing is clipped here, so one patient whose gradient overflows would spoil the sum.
        total = plain_sum(self._model, patients, self._loss)
        if torch.isfinite(total).all():
            return total
        each = (patients[slice(place, place + 1)] for place in range(len(patients)))
        sums = (plain_sum(self._model, one, self._loss) for one in each)
        finite = [one for one in sums if torch.isfinite(one).all()]
        return torch.stack(finite).sum(dim=0) if finite else torch.zeros_like(total)


def summed_loss(task: Task) -> Loss:
    """A task's loss, summed over items of which it is shown one at a time."""
    # Mapped, not called on a batch: a loss that couples two patients cannot be written.
    each = torch.func.vmap(task.loss)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return each(outputs, targets).sum()

    def one_by_one(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        pairs = zip(outputs.unbind(), targets, strict=True)
        return torch.stack([task.loss(item.clone(), target) for item, target in pairs]).sum()

    # Threads share the pixels of all items among them, and where one ends a library may round
    # otherwise: softmax did. Of an item by itself they end at the same pixels in every place.
    return one_by_one if task.heads().dense else loss
