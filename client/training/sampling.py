"""What one step of training works on: Poisson-sampled patients, images of each, augmented.

Each patient takes part with the mechanism's probability, independently of all others. All that
chance decides about a patient, whether it takes part, which images are drawn and how they are
augmented, follows from the round's secret, the step and the patient's own pseudonym: from no
place in a list. So with the secret fixed two hospitals that differ by one patient draw the same
for all others.

A sample of more patients than the mechanism allows is taken for the empty one, which is paid for
(:mod:`common.privacy.cap`): the work of a step has a bound that does not follow from patients.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.data.cohort import Patient
from client.training.augmentation import DRAWS, augment
from client.training.targets import TARGETS
from common.devices.cpu import CPU
from common.devices.device import Device
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import Stream, derive
from common.study.study_file import Study


@dataclass(frozen=True)
class RoundStreams:
    """The streams of one round at one site: each draw has its own, named by what it is for.

    Attributes:
        secret: 32 bytes that follow from the study key, plan, round, arrays and cohort.
    """

    secret: bytes = field(repr=False)

    def stream(self, purpose: str, step: int = 0) -> Stream:
        """The stream for one purpose in one step."""
        return Stream(derive(self.secret, purpose=purpose, step=step))

    def of_patients(self, step: int) -> PatientStreams:
        """Each patient's own draws in one step."""
        return PatientStreams(derive(self.secret, purpose="patients", step=step))


@dataclass(frozen=True)
class PatientStreams:
    """What chance decides about each patient in one step.

    Attributes:
        secret: 32 bytes, a pseudorandom key in the sense of RFC 5869.
    """

    secret: bytes = field(repr=False)

    def coin(self, pseudonym: str) -> float:
        """Uniform in [0, 1), 53 bits: the patient takes part where it is below the rate."""
        word = int.from_bytes(self._expand(pseudonym, b"coin")[:8], "little")
        # float64 has 53 bits: with more, rounding could give 1.0, which no sampling rate exceeds.
        return float(word >> 11) * 2.0**-53

    def stream(self, pseudonym: str) -> Stream:
        """The stream of a patient's draws of images and of their changes."""
        return Stream(self._expand(pseudonym, b"draws"))

    def _expand(self, pseudonym: str, use: bytes) -> bytes:
        """One block of HKDF-Expand (RFC 5869, section 2.3)."""
        return hmac.digest(
            self.secret, b"consilium/1 " + use + pseudonym.encode() + b"\x01", "sha256"
        )


@dataclass(frozen=True)
class Batch:
    """Some of the patients that one step works on, on the device that computes it.

    Attributes:
        pixels: float32 (patients, images, channels, height, width), normalised.
        targets: of the task's form, (patients,) or (patients, images, ...).
    """

    pixels: torch.Tensor
    targets: torch.Tensor


def draw(
    study: Study,
    mechanism: PatientMechanism | NoMechanism,
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    streams: RoundStreams,
    step: int,
    tile: int,
    masks: npt.NDArray[Any] | None = None,
    device: Device = CPU,
) -> Iterator[Batch]:
    """Poisson-sample patients, draw images of each, augment each image by itself.

    Args:
        study: images of a patient, augmentation and intensity constants.
        mechanism: the sampling rate, and of a private one the most that may be drawn.
        images: (images, channels, height, width) in [0, 1].
        patients: the training patients.
        streams: the round's randomness.
        step: which step of the round.
        tile: patients in a batch, at most: memory does not depend on how many are drawn.
        masks: (images, height, width), where they are the targets.
        device: where images are normalised and augmented; the draws are the processor's.

    Yields:
        Batches of at most ``tile`` patients; none where nobody was drawn, or too many were.
    """
    if isinstance(mechanism, NoMechanism):
        rate, most = mechanism.sampling_rate, len(patients)
    else:
        rate, most = mechanism.step.sampling_rate, mechanism.most_sampled
    # Poisson sampling, one coin a patient: the accountant assumes it (Mironov, Talwar and Zhang
    # 2019, arXiv:1908.10530), and batches of one size have other guarantees.
    own = streams.of_patients(step)
    chosen = [patient for patient in patients if own.coin(patient.pseudonym) < rate]
    # None, and not the first of them: else whether one patient is in would follow from the others.
    if len(chosen) > most:
        return
    for first in range(0, len(chosen), tile):
        yield _batch(
            study, images, chosen[first : first + tile], own=own, masks=masks, device=device
        )


def _batch(
    study: Study,
    images: npt.NDArray[Any],
    chosen: list[Patient],
    *,
    own: PatientStreams,
    masks: npt.NDArray[Any] | None,
    device: Device,
) -> Batch:
    """Some drawn patients, each of whose images are changed by themselves."""
    training, data = study.training, study.data
    drawn, copies, changes = training.images_per_patient, training.augmentation.copies, []
    rows = np.empty((len(chosen), drawn), dtype=np.int64)
    for place, patient in enumerate(chosen):
        if len(patient.images) == 1 and not training.augmentation.active:
            rows[place] = patient.images[0]  # there is nothing to draw
            continue
        stream = own.stream(patient.pseudonym)
        draws = stream.uniform(drawn)
        rows[place] = [patient.images[int(one * len(patient.images))] for one in draws]
        changes.append(torch.from_numpy(stream.uniform((drawn * copies, DRAWS))))
    repeated = np.repeat(rows, copies, axis=1)
    form = TARGETS[study.task.target]
    aims = [form.of(mine, each, masks) for mine, each in zip(chosen, repeated, strict=True)]
    # All at once, and pixels as they are in the cache: half the bytes of float32.
    targets = device.move(torch.stack(aims))
    pixels = pixels_of(images, repeated.reshape(-1), device)
    pixels = pixels.unflatten(0, (len(chosen), drawn * copies))
    if training.augmentation.active:
        # Not all patients' at once: libraries round by place and by number.
        how, maps = training.augmentation, device.move(torch.stack(changes))
        pairs = zip(pixels, maps, strict=True)
        pixels = torch.stack([augment(mine.clone(), how, each) for mine, each in pairs])
        moved = zip(targets, maps, strict=True)
        targets = torch.stack([form.moved(mine, how, each) for mine, each in moved])
    return Batch((pixels - data.mean) / data.std, targets)


def pixels_of(
    images: npt.NDArray[Any], rows: npt.NDArray[np.int64] | list[int], device: Device
) -> torch.Tensor:
    """Some images of a cohort on a device, float32 (rows, channels, height, width) in [0, 1].

    Args:
        images: (images, channels, height, width), mapped from the cache; they are copied.
        rows: which.
        device: that takes them as they are in the cache, and makes them float32.
    """
    # Rows by their numbers are a copy already, in memory: of the mapped file nothing is kept.
    return device.move(torch.from_numpy(images[rows])).to(torch.float32)
