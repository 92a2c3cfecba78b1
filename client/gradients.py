"""The sum over a batch of each patient's gradient, clipped where the study is private."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from client.engine.clipped import Loss, Patients, clipped_sum, plain_sum
from client.sampling import Batch
from common.numerics import EngineChoice
from common.privacy import NoMechanism, PatientMechanism


def gradient_sum(
    model: nn.Module,
    batch: Batch,
    mechanism: PatientMechanism | NoMechanism,
    class_weights: tuple[float, ...] | None,
    choice: EngineChoice,
) -> torch.Tensor:
    """The sum over patients of each patient's gradient, clipped where the study is private.

    A patient's gradient is the mean over the images drawn, so that however many there are,
    adding or removing the patient changes the sum by at most the clip norm.

    Args:
        model: its parameters are read.
        batch: may be empty.
        mechanism: says whether, and at which norm, to clip.
        class_weights: factor of each class in the loss.
        choice: how gradients are formed.

    Returns:
        Flat float32, zero for an empty batch.

    Raises:
        ModelError: names a module that cannot be trained privately.
    """
    loss, patients = summed_loss(class_weights), Patients(batch.pixels, batch.labels)
    if isinstance(mechanism, PatientMechanism):
        return clipped_sum(model, patients, loss, mechanism.clip_norm, choice)
    total = torch.zeros(sum(value.numel() for value in model.parameters()))
    many = max(1, choice.micro_batch // batch.pixels.shape[1])
    for first in range(0, len(patients), many):
        total += _finite_sum(model, patients[slice(first, first + many)], loss)
    return total


def summed_loss(class_weights: tuple[float, ...] | None) -> Loss:
    """Cross-entropy summed over images, each patient's class weighing as the plan says."""

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = functional.cross_entropy(logits, labels, reduction="none")
        if class_weights is not None:
            losses = losses * losses.new_tensor(class_weights)[labels]
        return losses.sum()

    return loss


def _finite_sum(model: nn.Module, patients: Patients, loss: Loss) -> torch.Tensor:
    """The gradients' sum; where it is not finite, without the patients whose own is not."""
    total = plain_sum(model, patients, loss)
    if torch.isfinite(total).all():
        return total
    total = torch.zeros_like(total)
    for place in range(len(patients)):
        gradient = plain_sum(model, patients[slice(place, place + 1)], loss)
        if torch.isfinite(gradient).all():
            total += gradient
    return total
