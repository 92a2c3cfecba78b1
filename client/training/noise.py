"""The Gaussian noise of a step, drawn from the round's secret stream.

The Gaussian mechanism (Dwork and Roth 2014, appendix A) on a sum over patients. Its L2
sensitivity is ``clip_norm * (1 + GAMMA)``: however many images of a patient are drawn, and
however often each is augmented, they are averaged before one clip, so that adding or removing
the patient adds or removes one clipped vector. What floating-point arithmetic may add to that
vector's norm is :data:`common.privacy.mechanisms.GAMMA`; the noise is calibrated to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import torch

from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import PAIRS, Stream
from common.process.denormals import flushed


class Deviates(Protocol):
    """Where the noise of one sum comes from: a stream, or what was drawn of it ahead."""

    def normal_blocks(self, count: int) -> Iterator[torch.Tensor]:
        """So many standard normal deviates, float64, as :class:`Stream` has it."""
        ...


class DrawnAhead:
    """The deviates of a stream, drawn by another thread while a graphics card forms the sum.

    Args:
        stream: that no other sum has.
        count: coordinates of the sum; as many float64 numbers are in memory at once.
        pool: of one thread.
    """

    def __init__(self, stream: Stream, count: int, pool: ThreadPoolExecutor) -> None:
        self._drawn = pool.submit(_drawn, stream, count)

    def normal_blocks(self, count: int) -> Iterator[torch.Tensor]:
        """See :class:`Deviates`; once, and for the sum that they were drawn for."""
        blocks = self._drawn.result()
        assert sum(map(len, blocks)) == count, "drawn for another sum"
        return iter(blocks)


# A thread has the flag that counts very small numbers as zero for itself: without it, other bits.
@flushed()
def _drawn(stream: Stream, count: int) -> list[torch.Tensor]:
    # clone: each block is written over by the next.
    return [block.clone() for block in stream.normal_blocks(count)]


@contextmanager
def drawing(*, ahead: bool) -> Iterator[ThreadPoolExecutor | None]:
    """The thread that draws ahead while a round lasts; None where noise is drawn when it is added.

    Args:
        ahead: whether something else than the processor forms the sums.
    """
    if not ahead:
        yield None
        return
    with ThreadPoolExecutor(1, "noise") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of a round that failed


def noised(
    total: torch.Tensor, mechanism: PatientMechanism | NoMechanism, stream: Deviates
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
