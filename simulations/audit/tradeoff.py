"""What a mechanism allows a test to tell: the trade-off curve of sampled Gaussian steps.

A mechanism bounds, for every t, ``P(E) <= exp(t) Q(E) + delta(t)`` for what it releases with
(P) and without (Q) a patient, and the other way round: its *privacy profile*. All t together
are the trade-off curve of f-differential privacy (Dong, Roth and Su 2022). The profile is read
from the composed privacy loss distribution, pessimistically rounded as the account's is, so
that the curve never allows a test less than the mechanism does.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from dp_accounting.pld import privacy_loss_distribution

_LOGS: Final = np.arange(-12.0, 40.0, 0.04)
"""At which t a profile is read. Between them, and beyond, a curve only allows more."""
# Dense near zero, where curves bend most.
_PROBABILITIES: Final = np.concatenate([np.geomspace(1e-12, 0.5, 600), np.linspace(0.5, 1.0, 200)])
_FINE: Final = 1e-3
"""Grid of the privacy loss at a noise multiplier of 1 and above; coarser below."""


class TradeOff:
    """A trade-off curve, as the straight lines above which it lies.

    Args:
        logs: t, float64 ascending.
        deltas: delta(t), float64.

    Attributes:
        logs: as given.
        deltas: as given.
    """

    def __init__(self, logs: npt.NDArray[np.float64], deltas: npt.NDArray[np.float64]) -> None:
        self.logs, self.deltas = logs, deltas
        self._factors = np.exp(logs)
        # A curve is convex: the line that is best at a point is nearly best around it.
        best = ((_PROBABILITIES[:, None] - deltas) / self._factors).argmax(axis=1)
        self._corners = _PROBABILITIES.tolist()
        self._lines = [(float(self._factors[k]), float(deltas[k])) for k in best]

    def most(self, false_positives: float) -> float:
        """The largest true positive rate of any test with this false positive rate."""
        return min(1.0, float((self._factors * false_positives + self.deltas).min()))

    def least(self, probability: float) -> float:
        """The least probability without a patient of what has this probability with the patient.

        Every line is a bound; nearly the best one is looked up. An audit calls this in its
        innermost loop.
        """
        place = min(bisect_left(self._corners, probability), len(self._lines) - 1)
        factor, delta = self._lines[place]
        return max(0.0, (probability - delta) / factor)


@lru_cache(maxsize=512)
def sampled_gaussian(rate: float, noise_multiplier: float, steps: int) -> TradeOff:
    """The curve of ``steps`` Gaussian mechanisms, each on its own Poisson sample.

    Args:
        rate: probability with which a patient takes part in a step.
        noise_multiplier: standard deviation of the noise over the clip norm.
        steps: composed.
    """
    # Less noise spreads the losses wider: a fine grid would have too many cells.
    grid = _FINE * max(1.0, noise_multiplier**-2)
    step = privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=rate, value_discretization_interval=grid
    )
    return TradeOff(_LOGS, np.asarray(step.self_compose(steps).get_delta_for_epsilon(_LOGS)))


@lru_cache(maxsize=512)
def worst(curves: tuple[TradeOff, ...]) -> TradeOff:
    """A curve that allows a test whatever any of several mechanisms does."""
    return TradeOff(_LOGS, np.max([curve.deltas for curve in curves], axis=0))
