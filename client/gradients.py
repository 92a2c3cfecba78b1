"""The sum over a batch of each patient's gradient, clipped where the study is private."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from client.engine.clipped import Loss, Patients, clipped_sum
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
    loss = summed_loss(class_weights)
    if isinstance(mechanism, PatientMechanism):
        patients = Patients(batch.pixels, batch.labels)
        return clipped_sum(model, patients, loss, mechanism.clip_norm, choice)
    total = torch.zeros(sum(value.numel() for value in model.parameters()))
    many = max(1, choice.micro_batch // batch.pixels.shape[1])
    for first in range(0, len(batch.labels), many):
        part = slice(first, first + many)
        total += _plain_sum(model, Batch(batch.pixels[part], batch.labels[part]), loss)
    return total


def summed_loss(class_weights: tuple[float, ...] | None) -> Loss:
    """Cross-entropy summed over images, each patient's class weighing as the plan says."""

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = functional.cross_entropy(logits, labels, reduction="none")
        if class_weights is not None:
            losses = losses * losses.new_tensor(class_weights)[labels]
        return losses.sum()

    return loss


def _plain_sum(model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor:
    """The gradients' sum; where it is not finite, without the patients whose own is not."""
    total = _plain_gradient(model, batch, loss)
    if torch.isfinite(total).all():
        return total
    total = torch.zeros_like(total)
    for place in range(len(batch.labels)):
        alone = Batch(batch.pixels[place : place + 1], batch.labels[place : place + 1])
        gradient = _plain_gradient(model, alone, loss)
        if torch.isfinite(gradient).all():
            total += gradient
    return total


def _plain_gradient(model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor:
    images = batch.pixels.shape[1]
    outputs = model(batch.pixels.flatten(0, 1))
    total = loss(outputs, batch.labels.repeat_interleave(images)) / images
    gradients = torch.autograd.grad(total, list(model.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
