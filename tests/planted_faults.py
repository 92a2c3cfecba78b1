"""Faults that a privacy mechanism can have, planted on purpose, to see who notices.

Each replaces one of the functions that an audit puts to the test (:class:`Parts`). They live among
the tests, so that no installed package contains a mechanism that is not private.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from client.data.cohort import Patient
from client.engine.clipped import Patients
from client.training.noise import noised
from client.training.sampling import Batch, RoundStreams
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import Stream
from common.study.study_file import Study
from simulations.audit.parts import PRODUCTION, Parts, clipped_sum, draw

_UNCLIPPED: Final = 1e6


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        name: in a few words.
        parts: the functions, one of them faulty.
        images_per_patient: how many images of a patient it takes for the fault to matter.
    """

    name: str
    parts: Parts
    images_per_patient: int = 1

    def afflicted(self, study: Study) -> Study:
        """The study, with as many images of a patient as the fault needs."""
        training = study.training
        images = max(training.images_per_patient, self.images_per_patient)
        changed = training.model_copy(update={"images_per_patient": images})
        return study.model_copy(update={"training": changed})


def halved_noise(total: torch.Tensor, mechanism: PatientMechanism, stream: Stream) -> torch.Tensor:
    """Noise of half the standard deviation that is accounted for."""
    half = mechanism.step.noise_multiplier / 2
    step = mechanism.step.model_copy(update={"noise_multiplier": half})
    return noised(total, mechanism.model_copy(update={"step": step}), stream)


def repeated_noise(
    total: torch.Tensor, mechanism: PatientMechanism, stream: Stream
) -> torch.Tensor:
    """The same noise in every step: whatever varies between two steps is seen bare."""
    del stream
    return noised(total, mechanism, Stream(bytes(32)))


def no_clip(
    model: nn.Module, batch: Batch, mechanism: PatientMechanism, study: Study
) -> torch.Tensor:
    """Each patient's gradient as long as it is."""
    wide = mechanism.model_copy(update={"clip_norm": _UNCLIPPED * mechanism.clip_norm})
    return clipped_sum(model, batch, wide, study)


def clip_each_image(
    model: nn.Module, batch: Batch, mechanism: PatientMechanism, study: Study
) -> torch.Tensor:
    """Every image clipped by itself and summed: a patient weighs as much as there are images."""
    each = Patients(batch.pixels, batch.targets).each_target
    apart = Batch(batch.pixels.flatten(0, 1).unsqueeze(1), each.unsqueeze(1))
    return clipped_sum(model, apart, mechanism, study)


def mean_loss(
    model: nn.Module, batch: Batch, mechanism: PatientMechanism, study: Study
) -> torch.Tensor:
    """The loss averaged over the batch: a gradient of 1/B, clipped at the whole norm."""
    patients = max(1, len(batch.targets))
    scaled = mechanism.model_copy(update={"clip_norm": mechanism.clip_norm * patients})
    return clipped_sum(model, batch, scaled, study) / patients


def fixed_size(
    study: Study,
    mechanism: PatientMechanism,
    images: Any,  # noqa: ANN401 - as the site's function takes it
    patients: tuple[Patient, ...],
    *,
    streams: RoundStreams,
    step: int,
) -> Batch:
    """As many patients in every batch as Poisson sampling has on average, drawn without return."""
    places = streams.stream("sampling", step).uniform(len(patients)).argsort()
    count = round(mechanism.step.sampling_rate * len(patients))
    chosen = tuple(patients[place] for place in np.sort(places[:count]))
    sure = mechanism.step.model_copy(update={"sampling_rate": 1.0})
    everyone = mechanism.model_copy(update={"step": sure})
    return draw(study, everyone, images, chosen, streams=streams, step=step)


FAULTS: Final = (
    Fault("halved noise", replace(PRODUCTION, noised=halved_noise)),
    Fault("clipping left out", replace(PRODUCTION, clipped_sum=no_clip)),
    Fault(
        "per-image instead of per-patient clipping",
        replace(PRODUCTION, clipped_sum=clip_each_image),
        images_per_patient=4,
    ),
    Fault("fixed-size batch accounted as Poisson", replace(PRODUCTION, draw=fixed_size)),
    Fault("noise reused between steps", replace(PRODUCTION, noised=repeated_noise)),
    Fault("batch-mean loss instead of sum", replace(PRODUCTION, clipped_sum=mean_loss)),
)
