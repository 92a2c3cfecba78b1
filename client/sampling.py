"""What one step of training works on: Poisson-sampled patients, images of each, augmented.

Each patient takes part with the mechanism's probability, independently of all others, and
each draw has a stream of its own (:class:`RoundStreams`), named by what it is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.augmentation import augment
from client.dataset import Patient
from common.privacy import NoMechanism, PatientMechanism
from common.randomness import Stream, derive
from common.study import Study


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


def draw(
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
