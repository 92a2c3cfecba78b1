"""A round and an evaluation of patients who do not exist, through the functions of real ones.

A site times them (:mod:`client.training.ticks`). And on a graphics card it does both once before a
plan is approved, and in each process before a round is charged: over a full tile of patients and
part of another. So all memory of the card that a round takes was taken and is free again, and
what does not fit is refused for every sample alike: a failure in a round would tell of who was
drawn. What a part of a tile takes beside is smaller tensors, for which memory is kept too
(:meth:`common.devices.cuda.Cuda.hold`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from client.data.cohort import Patient
from client.training.evaluation import counted
from client.training.local import Probed, local_change
from client.training.sampling import RoundStreams
from client.training.targets import TARGETS
from client.training.tuning import images_of, rehearsed
from common.devices.devices import DEVICES
from common.models.networks import initial_weights
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.study.study_file import Study


class MadeUp:
    """Patients who do not exist, and what a round does with them.

    Args:
        probed: what is trained, and how; its mechanism draws everybody.
        patients: how many there are.
        images: as many at most; patients share them.

    Attributes:
        patients: of two images each, so that one has to be drawn.
        images: float16 (images, channels, height, width) in [0, 1].
        masks: (images, height, width), where they are the targets.
        weights: that a round begins with.
    """

    def __init__(self, probed: Probed, *, patients: int, images: int) -> None:
        self._probed, study = probed, probed.study
        count = min(patients, images)
        shape = (count, study.data.channels, *study.data.image_size)
        self.images = np.random.default_rng(0).random(shape, dtype=np.float32).astype(np.float16)
        self.masks = _masks(study, count)
        self.patients = tuple(
            Patient(f"{number:064x}", number % 2, (number % count, (number + 1) % count), "")
            for number in range(patients)
        )
        self.weights = initial_weights(study, 0)

    def train(self, steps: int, patients: int) -> None:
        """A round of some steps, in each of which so many patients are drawn."""
        training = self._probed.study.training.model_copy(update={"local_steps": steps})
        study = self._probed.study.model_copy(update={"training": training})
        local_change(
            replace(self._probed, study=study),
            self.weights,
            self.images,
            self.patients[:patients],
            round_number=1,
            streams=RoundStreams(bytes(32)),
            masks=self.masks,
        )

    def evaluate(self, images: int) -> None:
        """An evaluation of so many images, one of each patient."""
        alone = [replace(each, images=each.images[:1]) for each in self.patients[:images]]
        counted(
            self._probed.study,
            self.weights,
            self.images,
            tuple(alone),
            choice=self._probed.choice,
            masks=self.masks,
        )


def mechanism_of(study: Study, rate: float) -> PatientMechanism:
    """One that draws everybody, or nobody; its noise takes as long as any."""
    return PatientMechanism(
        step=SampledGaussian(sampling_rate=rate, noise_multiplier=1.0, count=1),
        evaluation=None,
        most_sampled=10**9,
        clip_norm=getattr(study.privacy, "clip_norm", 1.0),
        divisor=1.0,
        cell_noise=0.0,
        epsilon_training=1.0,
        epsilon_evaluation=0.0,
        delta=0.5,
    )


def require_rehearsed(probed: Probed) -> None:
    """Refuse a study whose round or evaluation does not fit; tried once a process, on a card alone.

    The processor shares its memory with other programs, and a step over a whole tile was tried.

    Args:
        probed: what is trained, and how.

    Raises:
        ModelError: the card has too little memory.
    """
    if DEVICES[probed.choice.device].is_apart:
        private = isinstance(probed.mechanism, PatientMechanism)
        _rehearse(probed.study, probed.choice.model_dump_json(), private)


@lru_cache(maxsize=64)
def _rehearse(study: Study, choice: str, private: bool) -> None:
    mechanism = mechanism_of(study, 1.0) if private else NoMechanism(sampling_rate=1.0, divisor=1.0)
    chosen = EngineChoice.model_validate_json(choice)
    rows = chosen.tile * images_of(study)  # of an evaluation's tile
    made_up = MadeUp(Probed(study, mechanism, chosen), patients=rows + 1, images=2)

    def work() -> None:
        made_up.train(1, chosen.tile + 1)
        made_up.evaluate(rows + 1)

    rehearsed(chosen, work)


def _masks(study: Study, count: int) -> npt.NDArray[np.uint8] | None:
    """Of made-up images, where masks are the targets."""
    if study.task.target != "mask":
        return None
    found = TARGETS["mask"].made_up(study.task, count, 1, study.data.image_size)
    return found[:, 0].numpy().astype(np.uint8)
