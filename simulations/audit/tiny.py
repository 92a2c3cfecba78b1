"""Tiny studies on canaries that live in gradient space, through a site's own functions.

The data are canaries and nothing else: canary i's image has one bright pixel, the i-th, and the
model is linear without a bias and stays at zero. So the gradient of canary i is not zero at pixel
i alone, points in a direction that is known, and is sixteen times as long as the clip norm:
clipped, it is a unit vector that no other canary touches. What a step releases, read along
that direction, is the canary's part (0 or 1) and noise: the most that anyone could read of
a patient, in every step, with everything else known (Nasr et al. 2023, arXiv:2302.07956).

Sampling rate, noise, clip norm, class weights, images of a patient, rounds and steps are the
study's; the cap on a sample is what the same rule gives for as many patients as there are canaries.
Augmentation is left out, since a moved pixel would be another canary's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.data.cohort import Patient
from client.training.gradients import loss_of
from client.training.sampling import RoundStreams
from common.privacy.cap import least_cap
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import derive
from common.study.study_file import Augmentation, PatientPrivacy, Study
from common.tasks.tasks import as_classification
from simulations.audit.parts import Parts

LENGTH: Final = 16.0
"""The norm of a canary's gradient before it is clipped, over the clip norm."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """Canaries in gradient space, and the study that they take part in.

    Attributes:
        study: with images of one pixel a canary, and no augmentation.
        images: float16 (canaries, 1, side, side).
        patients: one for each image.
        directions: float32 (canaries, classes), unit vectors.
    """

    study: Study
    images: npt.NDArray[np.float16]
    patients: tuple[Patient, ...]
    directions: torch.Tensor

    @property
    def side(self) -> int:
        """Pixels of an image's side."""
        return self.study.data.image_size[0]


def canaries(study: Study, mechanism: PatientMechanism, side: int) -> Canaries:
    """``side * side`` canaries for a study, their labels in turn."""
    count, classes = side * side, len(study.task.classes)
    slope = torch.func.grad(loss_of(as_classification(study.task), study.training.method))
    # At zero weights, by the logits: of each class its own.
    slopes = torch.stack([slope(torch.zeros(classes), torch.tensor(k)) for k in range(classes)])
    longest = float(slopes.norm(dim=1).min())
    data = study.data.model_copy(
        update={
            "image_size": (side, side),
            "channels": 1,
            "mean": 0.0,
            "std": longest / (LENGTH * mechanism.clip_norm),
        }
    )
    training = study.training.model_copy(update={"augmentation": Augmentation()})
    labels = [number % classes for number in range(count)]
    gradients = slopes[torch.tensor(labels)]
    return Canaries(
        study=study.model_copy(update={"data": data, "training": training}),
        images=np.eye(count, dtype=np.float16).reshape(count, 1, side, side),
        patients=tuple(
            Patient(f"{number:064x}", label, (number,), f"{number:064x}")
            for number, label in enumerate(labels)
        ),
        directions=gradients / gradients.norm(dim=1, keepdim=True),
    )


def capped(study: Study, mechanism: PatientMechanism, count: int) -> PatientMechanism:
    """A site's mechanism with the cap that a site of ``count`` patients at most would have."""
    privacy, training = study.privacy, study.training
    assert isinstance(privacy, PatientPrivacy)
    steps, rate = training.rounds * training.local_steps, mechanism.step.sampling_rate
    cap = least_cap(count, rate, steps, privacy.epsilon, privacy.delta)
    return mechanism.model_copy(update={"most_sampled": cap})


def linear(study: Study) -> nn.Module:
    """A linear model without a bias, at zero."""
    pixels = study.data.channels * math.prod(study.data.image_size)
    layer = nn.Linear(pixels, len(study.task.classes), bias=False)
    nn.init.zeros_(layer.weight)
    return nn.Sequential(nn.Flatten(), layer)


def releases(
    made: Canaries,
    mechanism: PatientMechanism,
    members: npt.NDArray[np.bool_],
    *,
    key: bytes,
    parts: Parts,
) -> npt.NDArray[np.float32]:
    """What one tiny study releases along each canary's direction, in units of the clip norm.

    Args:
        made: the canaries.
        mechanism: as the site's plan has it, but for its cap (:func:`capped`).
        members: bool (canaries,), who is in.
        key: 32 bytes that no other run has.
        parts: the functions put to the test.

    Returns:
        float32 (steps, canaries).
    """
    study = made.study
    model = linear(study)
    inside = tuple(made.patients[place] for place in np.flatnonzero(members))
    seen = []
    for number in range(1, study.training.rounds + 1):
        # The site's own key schedule, so that noise repeated by it would show.
        streams = RoundStreams(derive(key, round=number))
        for step in range(study.training.local_steps):
            batch = parts.draw(study, mechanism, made.images, inside, streams=streams, step=step)
            total = parts.clipped_sum(model, batch, mechanism, study)
            released = parts.noised(total, mechanism, streams.stream("noise", step))
            # Each canary has a column of its own: its pixel's weights, one for each class.
            along = released.view(-1, len(members)).T * made.directions
            seen.append(along.sum(dim=1).numpy() / mechanism.clip_norm)
    return np.stack(seen)
