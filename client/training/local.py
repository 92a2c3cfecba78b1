"""Private local training: patient-level DP-SGD for one round at one site.

Abadi et al. 2016 (arXiv:1607.00133), with the patient as the unit: Poisson sampling of
patients, one clip for each patient's mean gradient over the images drawn, Gaussian noise on
the sum, division by the public expected batch size. Whatever else enters the step (momentum,
weight decay, FedProx's term) is a function of weights alone and is added after the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.data.cohort import Patient
from client.engine.clipped import place
from client.training.gradients import GradientSum
from client.training.noise import Deviates, DrawnAhead, drawing, noised
from client.training.sampling import RoundStreams, draw
from client.training.tuning import check
from common.devices.devices import DEVICES
from common.models.networks import (
    build_model,
    join,
    load_flat,
    load_trained,
    split,
    weights_count,
)
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.process.denormals import flushed
from common.process.killpoints import reach
from common.study.study_file import Study

Flat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probed:
    """How a study is trained, its model found sound; made by :func:`require_probed` alone.

    Attributes:
        study: schedule, model and augmentation.
        mechanism: sampling rate, clip norm, noise and divisor.
        choice: how gradients are formed.
    """

    study: Study
    mechanism: PatientMechanism | NoMechanism
    choice: EngineChoice

    def weights(self, trained: Flat, frozen: Flat | None) -> Flat:
        """All flat float32 weights of its model.

        Args:
            trained: flat float32.
            frozen: of the plan; where the model is a head on features, these hold what they do.
        """
        probe = weights_count(self.study) == trained.size
        return join(self.study, trained, None if probe else frozen)


def require_probed(
    study: Study, mechanism: PatientMechanism | NoMechanism, choice: EngineChoice
) -> Probed:
    """Refuse a model whose clipped sums would be wrong: tried once a process, on made-up numbers.

    Raises:
        ModelError: names the module or parameter at fault.
    """
    if isinstance(mechanism, PatientMechanism):  # without privacy nothing is clipped
        check(study, choice)
    return Probed(study, mechanism, choice)


@flushed()
def local_change(
    probed: Probed,
    weights: Flat,
    images: npt.NDArray[Any],
    patients: tuple[Patient, ...],
    *,
    round_number: int,
    streams: RoundStreams,
    masks: npt.NDArray[Any] | None = None,
) -> Flat:
    """Train for one round from the global weights and return what changed.

    Args:
        probed: what is trained, and how. The gates probe it, before a patient is read or charged.
        weights: all flat global weights, frozen ones too; not modified.
        images: (images, channels, height, width) in [0, 1].
        patients: the training patients.
        round_number: 1 and up; sets the learning rate.
        streams: the round's randomness.
        masks: (images, height, width), where they are the targets.

    Returns:
        Local weights minus global ones, flat float32 and finite, of what is trained. Where training
        runs away, it is the largest number instead of none: the update is cut off at its limit, and
        the coordinator sees it and ends the study; a failure would be a silence. It follows from
        the weights and the noised sums alone.

    Raises:
        ModelError: names a module that cannot be trained privately.
    """
    study, mechanism, choice = probed.study, probed.mechanism, probed.choice
    device = DEVICES[choice.device]
    model = place(build_model(study), choice)
    load_flat(model, weights)
    trained, _ = split(study, np.array(weights, dtype=np.float32))  # a copy: it may be read-only
    start = torch.from_numpy(trained)
    current, velocity = start.clone(), torch.zeros_like(start)
    training, strategy = study.training, study.aggregation.options
    rate = learning_rate(study, round_number)
    gradients = GradientSum(model, mechanism, study.task, choice, training.method)
    private = isinstance(mechanism, PatientMechanism)
    with drawing(ahead=private and device.is_apart) as pool:
        for step in range(training.local_steps):
            load_trained(model, device.move(current))
            noise: Deviates = (stream := streams.stream("noise", step))
            if pool is not None:
                noise = DrawnAhead(stream, current.numel(), pool)
            drawn = draw(
                study,
                mechanism,
                images,
                patients,
                streams=streams,
                step=step,
                tile=choice.tile,
                masks=masks,
                device=device,
            )
            total = gradients.over(drawn)
            # Over the public expected number, not the drawn one (Abadi et al. 2016, algorithm 1):
            # how many were drawn is sensitive.
            gradient = noised(total, mechanism, noise) / mechanism.divisor
            # After the noise: momentum, weight decay and FedProx's pull (Li et al. 2020,
            # arXiv:1812.06127) see weights and noised sums alone, so they cost no privacy.
            velocity = training.momentum * velocity + gradient
            drift = training.weight_decay * current + strategy.local_term(current, start)
            current = current - rate * (velocity + drift)
            reach("training.step", round_number)
    most = torch.finfo(torch.float32).max
    return (current - start).nan_to_num_(nan=most, posinf=most, neginf=-most).numpy()


def learning_rate(study: Study, round_number: int) -> float:
    """The local learning rate in a round: the schedule falls to zero after the last."""
    training = study.training
    gone = (round_number - 1) / training.rounds
    # The cosine of Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts.
    factor = {
        "constant": 1.0,
        "linear": 1.0 - gone,
        "cosine": (1.0 + math.cos(math.pi * gone)) / 2.0,
    }[training.schedule]
    return training.learning_rate * factor
