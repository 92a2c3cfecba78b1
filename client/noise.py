"""The Gaussian noise of a step, drawn from the round's secret stream."""

from __future__ import annotations

import torch

from common.privacy import NoMechanism, PatientMechanism
from common.randomness import Stream


def noised(
    total: torch.Tensor, mechanism: PatientMechanism | NoMechanism, stream: Stream
) -> torch.Tensor:
    """A sum over patients, with noise of ``noise_multiplier`` times the clip norm.

    Args:
        total: flat float32, each patient's part clipped.
        mechanism: no noise is added under ``mode = "none"``.
        stream: that no other sum has.

    Returns:
        Flat float32.
    """
    if isinstance(mechanism, NoMechanism):
        return total
    deviation = mechanism.step.noise_multiplier * mechanism.clip_norm
    noise = deviation * stream.normal(total.numel())
    return (total.double() + torch.from_numpy(noise)).float()
