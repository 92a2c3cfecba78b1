"""The three functions that make a step of training private, as an audit puts them to the test.

An audit runs what a site runs: sampling, clipped sum and noise are those of ``client``. They are
held together here so that a test can put a faulty one in a sound one's place, and see which
detector notices (:mod:`simulations.audit.faults`); production code knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from client import noise, sampling
from client.gradients import gradient_sum
from client.sampling import Batch
from common.numerics import EngineChoice
from common.privacy import PatientMechanism
from common.study import Study

_CHOICE: Final = EngineChoice(micro_batch=1024)
"""Kernels as they follow from shapes, as simulated hospitals have them. That others come to the
same sums is what the engine checks on each model (:mod:`client.engine.probe`)."""


def clipped_sum(
    model: nn.Module, batch: Batch, mechanism: PatientMechanism, study: Study
) -> torch.Tensor:
    """The site's clipped gradient sum over a batch, flat float32.

    Args:
        model: its parameters are read.
        batch: may be empty.
        mechanism: says at which norm to clip.
        study: says how classes weigh.
    """
    return gradient_sum(model, batch, mechanism, study.training.class_weights, _CHOICE)


@dataclass(frozen=True)
class Parts:
    """What a step is made of; by default, what a site runs.

    Attributes:
        draw: as :func:`client.sampling.draw`.
        clipped_sum: as :func:`clipped_sum`.
        noised: as :func:`client.noise.noised`.
    """

    draw: Callable[..., Batch] = sampling.draw
    clipped_sum: Callable[[nn.Module, Batch, PatientMechanism, Study], torch.Tensor] = clipped_sum
    noised: Callable[[torch.Tensor, PatientMechanism, Any], torch.Tensor] = noise.noised


PRODUCTION: Final = Parts()
