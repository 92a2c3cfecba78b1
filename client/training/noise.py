"""The Gaussian noise of a step, drawn from the round's secret stream.

The Gaussian mechanism (Dwork and Roth 2014, appendix A) on a sum over patients. Its L2
sensitivity is ``clip_norm * (1 + GAMMA)``: however many images of a patient are drawn, and
however often each is augmented, they are averaged before one clip, so that adding or removing
the patient adds or removes one clipped vector. What floating-point arithmetic may add to that
vector's norm is :data:`common.privacy.mechanisms.GAMMA`; the noise is calibrated to it.
"""

from __future__ import annotations

import torch

from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import PAIRS, Stream


def noised(
    total: torch.Tensor, mechanism: PatientMechanism | NoMechanism, stream: Stream
) -> torch.Tensor:
    """A sum over patients, with Gaussian noise on each coordinate.

    Noise is made and added in float64, on the CPU, and the sum is rounded once, to float32:
    neither the noise's tail nor its lowest bits are lost before they meet the sum.

    Args:
        total: flat float64, each patient's part clipped; sensitive, not modified.
        mechanism: no noise is added under ``mode = "none"``.
        stream: that no other sum has.

    Returns:
        Flat float32, on the CPU.
    """
    if isinstance(mechanism, NoMechanism):
        return total.float().cpu()
    deviation = mechanism.noise_deviation
    result = torch.empty_like(total, dtype=torch.float32, device="cpu")
    # In blocks: noise in float64 takes twice the memory of a model's float32 weights.
    parts = zip(total.split(2 * PAIRS), result.split(2 * PAIRS), strict=True)
    for (before, after), noise in zip(parts, stream.normal_blocks(total.numel()), strict=True):
        after.copy_(noise.mul_(deviation).add_(before.cpu()))
    return result
