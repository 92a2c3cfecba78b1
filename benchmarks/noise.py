"""What unpredictable noise costs beside torch's ordinary noise, in milliseconds.

``client.training.noise.noised`` (ChaCha20, 64-bit radii and angles, added in float64) against
``torch.randn`` scaled and added in float32, for the numbers of weights of the models that
``benchmarks/dp_step.py`` measures. Turn about in one process; the ratio is the median of the
pairs' ratios. A private step of ResNet-18 takes at least three times as long as its ordinary
noise, so that a ratio of at most 1.3 keeps it within 1.1; that bench measures the whole step.
Exits with 1 where a large model's ratio is above that.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

import torch

from client.training.noise import noised
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import Stream

WEIGHTS: Final = {
    "seed CNN": 240_000,
    "DenseNet-121": 7_000_000,
    "ResNet-18": 11_200_000,
}
LARGE: Final = 1_000_000
MOST: Final = 1.3
PAIRS: Final = 21
MECHANISM: Final = PatientMechanism(
    step=SampledGaussian(sampling_rate=0.1, noise_multiplier=1.1, count=1),
    evaluation=None,
    most_sampled=10**9,
    clip_norm=1.0,
    divisor=32.0,
    cell_noise=0.0,
    epsilon_training=3.0,
    epsilon_evaluation=0.0,
    delta=1e-5,
)


def milliseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def compare(weights: int) -> tuple[float, float, float]:
    """Median milliseconds of ours and of the peer, and the median of the pairs' ratios."""
    total = torch.randn(weights, generator=torch.manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    deviation = MECHANISM.noise_deviation

    def ours() -> torch.Tensor:
        return noised(total, MECHANISM, Stream(bytes(32)))

    def peer() -> torch.Tensor:
        return torch.randn(weights, generator=generator).mul_(deviation).add_(total)

    for _ in range(3):
        ours(), peer()
    pairs = [(milliseconds(ours), milliseconds(peer)) for _ in range(PAIRS)]
    return (
        statistics.median(mine for mine, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(mine / other for mine, other in pairs),
    )


def main() -> int:
    """Print one line of JSON for each model; 1 if noise costs too much for a large one."""
    worst = 0.0
    for model, weights in WEIGHTS.items():
        ours, peer, ratio = compare(weights)
        result = {
            "name": f"secure noise on {weights} weights ({model}), {torch.get_num_threads()} "
            "threads; peer: torch.randn, scaled and added",
            "ours": round(ours, 2),
            "peer": round(peer, 2),
            "ratio": round(ratio, 3),
            "unit": "ms",
        }
        print(json.dumps(result), flush=True)
        worst = max(worst, ratio if weights >= LARGE else 0.0)
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
