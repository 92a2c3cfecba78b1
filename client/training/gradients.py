"""The sum over patients of each patient's gradient, clipped where the study is private."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from client.engine.clipped import ClippedSum, Loss, Patients, flat_zeros, plain_sum
from client.training.sampling import Batch
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism


class GradientSum:
    """The sum over patients of each patient's gradient, clipped where the study is private.

    A patient's gradient is the mean over the images drawn, so that however many there are,
    adding or removing the patient changes the sum by at most the clip norm.

    Args:
        model: its parameters are read, as they are when a sum is formed.
        mechanism: says whether, and at which norm, to clip.
        class_weights: factor of each class in the loss.
        choice: how gradients are formed.
    """

    def __init__(
        self,
        model: nn.Module,
        mechanism: PatientMechanism | NoMechanism,
        class_weights: tuple[float, ...] | None,
        choice: EngineChoice,
    ) -> None:
        self._model, self._loss, self._choice = model, summed_loss(class_weights), choice
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
            self._clipped.add(Patients(batch.pixels, batch.labels))
        return self._clipped.total

    def _plain(self, batches: Iterable[Batch]) -> torch.Tensor:
        total = flat_zeros(self._model)
        for batch in batches:
            patients = Patients(batch.pixels, batch.labels)
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


def summed_loss(class_weights: tuple[float, ...] | None) -> Loss:
    """Cross-entropy summed over images, each patient's class weighing as the plan says."""

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = functional.cross_entropy(logits, labels, reduction="none")
        if class_weights is not None:
            losses = losses * losses.new_tensor(class_weights)[labels]
        return losses.sum()

    return loss
