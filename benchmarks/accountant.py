"""What the accountant takes at its worst, within what a study and a policy may ask for.

A proposal is counted before anybody has approved of it. So the losses of many plans are composed,
with the least delta that a study may have and as many steps, or as keep the Renyi bound below
``LARGE``, above which nothing is composed. Each runs in a process of its own, whose peak of memory
is taken. The ratio is the most memory over what is allowed; exits with 1 where it is more.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from typing import Final

from common.privacy.accounting import (
    LARGE,
    LEAST_NOISE,
    SampledGaussian,
    epsilon_of,
    renyi,
    renyi_epsilon,
)
from common.study.bounds import BY_KEY

DELTA: Final = 1e-12
RATES: Final = (1.0, 0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
NOISES: Final = (LEAST_NOISE, 0.5, 1.0, 4.0, 20.0, 100.0)
STEPS: Final = int(BY_KEY["steps"].most)
ALLOWED_MIB: Final = 512


def measured(rate: float, noise: float, count: int) -> tuple[float, float]:
    """Seconds, and MiB beyond what the libraries take."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    epsilon_of(rate, noise, count, DELTA)
    seconds = time.process_time() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def dearest(rate: float, noise: float) -> int:
    """The most steps that are composed at all."""
    once = renyi(SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=1))
    low, high = 1, STEPS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if renyi_epsilon(middle * once, DELTA) <= LARGE else (low, middle)
        )
    return low


def main() -> int:
    """Print the worst; 1 where it takes more memory than is allowed."""
    epsilon_of(0.1, 1.0, 1, 1e-5)  # the libraries are in memory
    found = {}
    for rate in RATES:
        for noise in NOISES:
            count = dearest(rate, noise)
            with multiprocessing.get_context("fork").Pool(1) as pool:
                found[rate, noise, count] = pool.apply(measured, (rate, noise, count))
    slowest = max(found, key=lambda each: found[each][0])
    largest = max(found, key=lambda each: found[each][1])
    ratio = found[largest][1] / ALLOWED_MIB
    print(
        json.dumps(
            {
                "benchmark": "accountant",
                "ratio": round(ratio, 3),
                "most_mib": round(found[largest][1]),
                "most_mib_at": largest,
                "most_seconds": round(found[slowest][0], 2),
                "most_seconds_at": slowest,
            }
        )
    )
    return int(ratio > 1)


if __name__ == "__main__":
    sys.exit(main())
