"""Private local training: patient-level DP-SGD for one round at one site.

Abadi et al. 2016 (arXiv:1607.00133), with the patient as the unit: Poisson sampling of
patients, one clip for each patient's mean gradient over the images drawn, Gaussian noise on
the sum, division by the public expected batch size. Whatever else enters the step (momentum,
weight decay, FedProx's term) is a function of weights alone and is added after the noise.

Per-sample gradients come from Opacus' hooks (Yousefpour et al. 2021).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from opacus import GradSampleModule
from torch import nn
from torch.nn import functional

from client.augmentation import augment
from client.dataset import Patient
from common.faults import reach
from common.model import build_model, load_flat
from common.privacy import NoMechanism, PatientMechanism
from common.randomness import Stream, derive
from common.study import Study

Flat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RoundStreams:
    """The streams of one round at one site: each draw has its own, named by what it is for.

    Attributes:
        secret: 32 bytes that follow from the study key, plan, round, arrays and cohort.
    """

    secret: bytes

    def __repr__(self) -> str:
        return "RoundStreams(secret=…)"

    def stream(self, purpose: str, step: int = 0) -> Stream:
        """The stream for one purpose in one step."""
        return Stream(derive(self.secret, purpose=purpose, step=step))


@dataclass(frozen=True)
class Batch:
    """What one step works on.

    Attributes:
        pixels: float32 (patients, images, channels, height, width), normalised.
        labels: int64 (patients,).
    """

    pixels: torch.Tensor
    labels: torch.Tensor


def local_change(
    study: Study,
    mechanism: PatientMechanism | NoMechanism,
    weights: Flat,
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    round_number: int,
    streams: RoundStreams,
    micro_batch: int,
) -> Flat:
    """Train for one round from the global weights and return what changed.

    Args:
        study: schedule, model and augmentation.
        mechanism: sampling rate, clip norm, noise and divisor.
        weights: flat global weights; not modified.
        images: (images, channels, height, width) in [0, 1].
        patients: the training patients.
        round_number: 1 and up; sets the learning rate.
        streams: the round's randomness.
        micro_batch: images whose gradients are held at once.

    Returns:
        Local weights minus global weights, flat float32.
    """
    model = build_model(study)
    engine = model if isinstance(mechanism, NoMechanism) else _with_hooks(model)
    start = torch.from_numpy(np.array(weights, dtype=np.float32))
    current, velocity = start.clone(), torch.zeros_like(start)
    training, mu = study.training, study.aggregation.proximal_mu
    rate = learning_rate(study, round_number)
    for step in range(training.local_steps):
        load_flat(model, current.numpy())
        batch = _draw(study, mechanism, images, patients, streams=streams, step=step)
        total = gradient_sum(engine, batch, mechanism, training.class_weights, micro_batch)
        gradient = _noised(total, mechanism, streams.stream("noise", step)) / mechanism.divisor
        velocity = training.momentum * velocity + gradient
        drift = training.weight_decay * current + mu * (current - start)
        current = current - rate * (velocity + drift)
        reach("training.step", round_number)
    return (current - start).numpy()


def learning_rate(study: Study, round_number: int) -> float:
    """The local learning rate in a round: the schedule falls to zero after the last."""
    training = study.training
    gone = (round_number - 1) / training.rounds
    factor = {
        "constant": 1.0,
        "linear": 1.0 - gone,
        "cosine": (1.0 + math.cos(math.pi * gone)) / 2.0,
    }[training.schedule]
    return training.learning_rate * factor


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


def _noised(
    total: torch.Tensor, mechanism: PatientMechanism | NoMechanism, stream: Stream
) -> torch.Tensor:
    if isinstance(mechanism, NoMechanism):
        return total
    deviation = mechanism.step.noise_multiplier * mechanism.clip_norm
    noise = deviation * stream.normal(total.numel())
    return (total.double() + torch.from_numpy(noise)).float()


def _draw(
    study: Study,
    mechanism: PatientMechanism | NoMechanism,
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    streams: RoundStreams,
    step: int,
) -> Batch:
    """Poisson-sample patients, draw images of each, augment each image by itself."""
    rate = (
        mechanism.sampling_rate
        if isinstance(mechanism, NoMechanism)
        else mechanism.step.sampling_rate
    )
    taken = np.flatnonzero(streams.stream("sampling", step).uniform(len(patients)) < rate)
    chosen = [patients[index] for index in taken]
    training, data = study.training, study.data
    draws = streams.stream("images", step).uniform((len(chosen), training.images_per_patient))
    rows = [
        [patient.images[int(draw * len(patient.images))] for draw in row]
        for patient, row in zip(chosen, draws, strict=True)
    ]
    copies = training.augmentation.copies
    shape = (len(chosen), training.images_per_patient * copies, data.channels, *data.image_size)
    flat_rows = np.repeat(np.array(rows, dtype=np.int64).reshape(-1), copies)
    pixels = torch.from_numpy(np.asarray(images[flat_rows], dtype=np.float32))
    pixels = augment(pixels, training.augmentation, streams.stream("augmentation", step))
    return Batch(
        pixels=((pixels - data.mean) / data.std).view(shape),
        labels=torch.tensor([patient.label for patient in chosen], dtype=torch.int64),
    )


def _with_hooks(model: nn.Module) -> nn.Module:
    hooked: nn.Module = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    return hooked
