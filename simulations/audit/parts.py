"""The three functions that make a step of training private, as an audit puts them to the test.

An audit runs what a site runs: sampling, clipped sum and noise are those of ``client``. They are
held together here so that a test can put a faulty one in a sound one's place, and see which
detector notices (:mod:`tests.planted_faults`); production code knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from client.data.cohort import Patient
from client.training import noise, sampling
from client.training.gradients import GradientSum
from client.training.sampling import Batch, RoundStreams
from client.training.targets import TARGETS
from client.training.tuning import images_of
from common.numerics import EngineChoice
from common.privacy.mechanisms import PatientMechanism
from common.study.study_file import Study

_CHOICE: Final = EngineChoice(tile=64)
"""Kernels as they follow from shapes, as simulated hospitals have them. That others come to the
same sums is what the engine checks on each model (:mod:`client.engine.probe`)."""


def draw(
    study: Study,
    mechanism: PatientMechanism,
    images: Any,  # noqa: ANN401 - as the site's function takes it
    patients: tuple[Patient, ...],
    *,
    streams: RoundStreams,
    step: int,
) -> Batch:
    """All that :func:`client.training.sampling.draw` draws for a step, in one batch."""
    # A site draws in tiles, to bound its memory; the tests want one batch.
    drawn = list(
        sampling.draw(
            study, mechanism, images, patients, streams=streams, step=step, tile=_CHOICE.tile
        )
    )
    # An empty draw has no batch that would tell shapes.
    nothing = torch.zeros(0, images_of(study), study.data.channels, *study.data.image_size)
    none = TARGETS[study.task.target].made_up(study.task, 1, images_of(study), (1, 1))[:0]
    return Batch(
        torch.cat([nothing, *(each.pixels for each in drawn)]),
        torch.cat([none, *(each.targets for each in drawn)]),
    )


def clipped_sum(
    model: nn.Module, batch: Batch, mechanism: PatientMechanism, study: Study
) -> torch.Tensor:
    """The site's clipped gradient sum over a batch, flat float64.

    Args:
        model: its parameters are read.
        batch: may be empty.
        mechanism: says at which norm to clip.
        study: says what is learned.
    """
    return GradientSum(model, mechanism, study.task, _CHOICE, study.training.method).over([batch])


@dataclass(frozen=True)
class Parts:
    """What a step is made of; by default, what a site runs.

    Attributes:
        draw: as :func:`draw`.
        clipped_sum: as :func:`clipped_sum`.
        noised: as :func:`client.training.noise.noised`.
    """

    draw: Callable[..., Batch] = draw
    clipped_sum: Callable[[nn.Module, Batch, PatientMechanism, Study], torch.Tensor] = clipped_sum
    noised: Callable[[torch.Tensor, PatientMechanism, Any], torch.Tensor] = noise.noised


PRODUCTION: Final = Parts()
