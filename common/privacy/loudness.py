"""How loud the noise of a whole study is beside all that its patients could say together.

A step moves the shared weights by the mean over patients of clipped gradients, which is at most as
long as the clip norm, and by noise on every trained weight. Over the steps of a study the noise of
each averages out as their root. The ratio of the two is public: it follows from declared numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from common.privacy.mechanisms import NoMechanism, PatientMechanism

NEARLY_NOISE: Final = 1.0
"""From here on little is learned; ``docs/utility.md`` has the evidence."""


def loudness(
    sites: Iterable[tuple[float, PatientMechanism | NoMechanism]], trained: int, steps: int
) -> float:
    """The L2 norm of a study's noise over the longest that all patients can move the weights.

    Args:
        sites: of each the weight in the average, and its mechanism.
        trained: weights that are trained.
        steps: of the whole study.

    Returns:
        0 where there is no noise.
    """
    every = list(sites)
    whole = sum(weight for weight, _ in every)
    reach = sum(
        weight / whole * each.clip_norm
        for weight, each in every
        if isinstance(each, PatientMechanism)
    )
    return math.sqrt(noise_variance(every) * trained / steps) / reach if reach else 0.0


def noise_variance(sites: Iterable[tuple[float, PatientMechanism | NoMechanism]]) -> float:
    """Of the noise in each entry of the mean over sites of a step's sums, each over its divisor.

    Args:
        sites: as for :func:`loudness`.
    """
    every = list(sites)
    whole = sum(weight for weight, _ in every)
    return sum(
        (weight / whole * each.noise_deviation / each.divisor) ** 2
        for weight, each in every
        if isinstance(each, PatientMechanism)
    )
