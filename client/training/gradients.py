"""The sum over patients of each patient's gradient, clipped where the study is private."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from client.engine.clipped import ClippedSum, Loss, Patients, flat_zeros, plain_sum
from client.training.sampling import Batch
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.study.study_file import Method
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
        method: of training; that of a one-shot study sums :meth:`Task.statistic`.
    """

    def __init__(
        self,
        model: nn.Module,
        mechanism: PatientMechanism | NoMechanism,
        task: Task,
        choice: EngineChoice,
        method: Method = "rounds",
    ) -> None:
        self._model, self._choice = model, choice
        self._loss = summed_loss(task, method, total=True)
        self._clipped: ClippedSum | None = None
        if isinstance(mechanism, PatientMechanism):
            self._clipped = ClippedSum(model, self._loss, mechanism.clip_norm, choice)
        elif choice.precision != "float32" or choice.checkpointing:
            # Not clipped, yet as short: else a comparison with a private study would mislead. And
            # what is checkpointed would not fit otherwise.
            self._clipped = ClippedSum(model, self._loss, math.inf, choice)

    def over(self, batches: Iterable[Batch]) -> torch.Tensor:
        """The sum over all patients of some batches on the model's device, which may be none.

        Returns:
            Flat float64; the next sum is written over it.

        Raises:
            ModelError: names a module that cannot be trained privately.
        """
        if self._clipped is None:
            return self._plain(batches)
        self._clipped.start()
        for batch in batches:
            self._clipped.add(Patients(batch.pixels, batch.targets))
        return self._clipped.total

    def _plain(self, batches: Iterable[Batch]) -> torch.Tensor:
        total = flat_zeros(self._model)
        for batch in batches:
            patients = Patients(batch.pixels, batch.targets)
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


def loss_of(task: Task, method: Method) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of one item whose gradient a patient adds."""
    return task.statistic if method == "one-shot" else task.loss


def summed_loss(task: Task, method: Method = "rounds", *, total: bool = False) -> Loss:
    """A task's loss, summed over items of which it is shown one at a time.

    Args:
        task: whose.
        method: of training: that of a one-shot study has the task's statistic for a loss.
        total: whether an item on which the task fails has no gradient, instead of an error. For
            real patients: an error would tell that this one is here.
    """
    # Threads share the pixels of all items among them, and where one ends a library may round
    # otherwise: softmax did. Of an item by itself they end at the same pixels in every place.
    of = loss_of(task, method)
    each = _one_by_one(of) if task.heads().dense else _mapped(of)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return each(outputs, targets, total).sum()

    return loss


_One = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_Each = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]


def _mapped(of: _One) -> _Each:
    """The losses of all items at once; no operation of the task's own sees more than one."""
    mapped = torch.func.vmap(of)

    def each(outputs: torch.Tensor, targets: torch.Tensor, total: bool) -> torch.Tensor:
        try:
            return mapped(outputs, targets)
        except Exception:
            if not total:
                raise
        each = [_is_sound(of, *one) for one in zip(outputs, targets, strict=True)]
        sound = torch.tensor(each, device=outputs.device)
        if not sound.any():
            return outputs.flatten(1).sum(dim=1) * 0.0
        # In the place of one that fails stands another, so that shapes, and all others' bits, stay.
        places = torch.where(
            sound, torch.arange(len(each), device=outputs.device), each.index(True)
        )
        return torch.where(sound, mapped(outputs[places], targets[places]), 0.0)

    return each


def _one_by_one(of: _One) -> _Each:
    """The losses of the items, each by itself."""

    def one(output: torch.Tensor, target: torch.Tensor, total: bool) -> torch.Tensor:
        try:
            loss = of(output.clone(), target)
            if not isinstance(loss, torch.Tensor) or loss.shape or not loss.is_floating_point():
                raise TypeError(f"a loss should be one floating number of torch's, not {loss!r}")
        except Exception:
            if not total:
                raise
            return output.sum() * 0.0
        # One that does not depend on the output, such as 0 for an empty mask, has no gradient.
        return loss if loss.requires_grad else loss.detach() + output.sum() * 0.0

    def each(outputs: torch.Tensor, targets: torch.Tensor, total: bool) -> torch.Tensor:
        pairs = zip(outputs.unbind(), targets, strict=True)
        return torch.stack([one(*pair, total) for pair in pairs])

    return each


def _is_sound(of: _One, output: torch.Tensor, target: torch.Tensor) -> bool:
    try:
        of(output.detach(), target)
    except Exception:  # noqa: BLE001 - whatever it is, this item has no loss
        return False
    return True
