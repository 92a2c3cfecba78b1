"""The sum over a batch of each patient's clipped gradient, by Opacus' hooks.

Per-sample gradients after Yousefpour et al. 2021 (arXiv:2109.12298).
"""

from __future__ import annotations

import warnings

import torch
from opacus import GradSampleModule
from torch import nn
from torch.nn import functional

from client.sampling import Batch
from common.privacy import NoMechanism, PatientMechanism


def gradient_sum(
    model: nn.Module,
    batch: Batch,
    mechanism: PatientMechanism | NoMechanism,
    class_weights: tuple[float, ...] | None,
    micro_batch: int,
) -> torch.Tensor:
    """The sum over patients of each patient's gradient, clipped where the study is private.

    A patient's gradient is the mean over the images drawn, so that however many there are,
    adding or removing the patient changes the sum by at most the clip norm.

    Args:
        model: a Opacus ``GradSampleModule`` where gradients are clipped, else the plain model.
        batch: may be empty.
        mechanism: says whether, and at which norm, to clip.
        class_weights: factor of each class in the loss.
        micro_batch: images whose gradients are held at once.

    Returns:
        Flat float32, zero for an empty batch.
    """
    total = torch.zeros(sum(value.numel() for value in model.parameters()))
    patients = max(1, micro_batch // batch.pixels.shape[1])
    for first in range(0, len(batch.labels), patients):
        part = Batch(batch.pixels[first : first + patients], batch.labels[first : first + patients])
        if isinstance(mechanism, NoMechanism):
            total += _plain_sum(model, part, class_weights)
        else:
            total += _clipped_sum(model, part, class_weights, mechanism.clip_norm)
    return total


def _clipped_sum(
    model: nn.Module, batch: Batch, class_weights: tuple[float, ...] | None, clip_norm: float
) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        # Opacus' hooks sit on modules whose input needs no gradient: intended.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        _summed_loss(model, batch, class_weights).backward()
    each = [_of_patients(value, len(batch.labels)) for value in model.parameters()]
    norms = torch.stack([gradients.norm(dim=1) for gradients in each]).norm(dim=0)
    finite = torch.isfinite(norms)
    for gradients in each:
        gradients[~finite] = 0.0
    factors = torch.where(finite, clip_norm / norms.clamp(min=clip_norm), 0.0)
    model.zero_grad(set_to_none=True)
    return torch.cat([factors @ gradients for gradients in each])


def _of_patients(parameter: nn.Parameter, patients: int) -> torch.Tensor:
    """A parameter's gradients, flat, one row a patient: the mean over the patient's images."""
    each: torch.Tensor = parameter.grad_sample  # type: ignore[attr-defined] # set by Opacus
    gradients = each.view(patients, -1, parameter.numel())
    return gradients.squeeze(1) if gradients.shape[1] == 1 else gradients.mean(dim=1)


def _plain_sum(
    model: nn.Module, batch: Batch, class_weights: tuple[float, ...] | None
) -> torch.Tensor:
    """The gradients' sum; where it is not finite, without the patients whose own is not."""
    total = _plain_gradient(model, batch, class_weights)
    if torch.isfinite(total).all():
        return total
    total = torch.zeros_like(total)
    for place in range(len(batch.labels)):
        alone = Batch(batch.pixels[place : place + 1], batch.labels[place : place + 1])
        gradient = _plain_gradient(model, alone, class_weights)
        if torch.isfinite(gradient).all():
            total += gradient
    return total


def _plain_gradient(
    model: nn.Module, batch: Batch, class_weights: tuple[float, ...] | None
) -> torch.Tensor:
    loss = _summed_loss(model, batch, class_weights) / batch.pixels.shape[1]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _summed_loss(
    model: nn.Module, batch: Batch, class_weights: tuple[float, ...] | None
) -> torch.Tensor:
    """Cross-entropy summed over images, each patient's class weighing as the plan says."""
    images = batch.pixels.shape[1]
    labels = batch.labels.repeat_interleave(images)
    logits = model(batch.pixels.flatten(0, 1))
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if class_weights is not None:
        losses = losses * torch.tensor(class_weights, dtype=losses.dtype)[labels]
    return losses.sum()


def with_hooks(model: nn.Module) -> nn.Module:
    """The model, keeping a gradient for each image."""
    hooked: nn.Module = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    return hooked
