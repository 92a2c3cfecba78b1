"""The mechanism audit: tiny studies on gradient-space canaries, and what they prove.

Each repetition is a whole study on :mod:`simulations.audit.tiny`'s canaries, who are in or out by
a fair coin, through the site's sampling, clipping and noise, at the site's sampling rate and noise
and over all its steps. A quarter of the repetitions choose how to guess (statistic, threshold, how
many guesses), the others alone give the bounds, so that nothing is chosen on what it is then
judged by. Three bounds are given, each at its share of the allowed failure, so that the largest
holds too; each says what it assumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from common.privacy.accounting import epsilon_of
from common.privacy.cap import composed
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import Stream, derive
from common.process.progress import Tracker
from common.study.study_file import Study
from simulations.audit.audit_settings import REPETITIONS
from simulations.audit.bounds import (
    ErrorRates,
    Guesses,
    at_most,
    curve_is_refuted_by_guesses,
    curve_is_refuted_by_rates,
    rates_epsilon,
    tail_guesses,
)
from simulations.audit.findings import LowerBound, MechanismFinding
from simulations.audit.parts import PRODUCTION, Parts
from simulations.audit.tiny import canaries, capped, releases
from simulations.audit.tradeoff import TradeOff, sampled_gaussian

Scores = npt.NDArray[np.float64]
Members = npt.NDArray[np.bool_]
SIDE: Final = 32
"""Pixels of a side: 1024 canaries a repetition."""
SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Of the canaries, how many may be guessed on."""
_MIDDLE: Final = np.linspace(0.2, 0.8, 13)
"""Quantiles at which a threshold may lie; further out, what looks best is mostly luck."""
_TAILS: Final = np.concatenate([np.geomspace(1e-4, 0.5, 60), 1.0 - np.geomspace(1e-4, 0.5, 60)])
# Rungs of noise to a factor of two: neighbours differ by 4 %.
_OCTAVE: Final = 16
_OCTAVES: Final = 2
BOUNDS: Final = 3


@dataclass(frozen=True)
class Claim:
    """What a site's plan says of its training.

    Attributes:
        rate: probability with which a patient takes part in a step.
        noise_multiplier: standard deviation of a step's noise over the clip norm.
        steps: of the whole study.
        delta: failure probability.
        epsilon: what the training costs a patient.
    """

    rate: float
    noise_multiplier: float
    steps: int
    delta: float
    epsilon: float

    @classmethod
    def of(cls, study: Study, mechanism: PatientMechanism) -> Claim:
        """The claim of a mechanism that was calibrated for a study."""
        return cls(
            mechanism.step.sampling_rate,
            mechanism.step.noise_multiplier,
            study.training.rounds * study.training.local_steps,
            mechanism.delta,
            mechanism.epsilon_training,
        )

    def noise_at(self, rung: int) -> float:
        """Noise multipliers from four times the claimed (rung 0) to a quarter of it."""
        return float(self.noise_multiplier * 2.0 ** (_OCTAVES - rung / _OCTAVE))

    def curve(self, rung: int) -> TradeOff:
        """The trade-off curve with the noise of a rung."""
        return sampled_gaussian(self.rate, self.noise_at(rung), self.steps)

    def cost(self, rung: int) -> float:
        """Epsilon with the noise of a rung."""
        # The plan's own number: refuting the claim's curve must reach the claim exactly.
        if rung == CLAIMED:
            return self.epsilon
        return epsilon_of(self.rate, self.noise_at(rung), self.steps, composed(self.delta))


CLAIMED: Final = _OCTAVES * _OCTAVE
_RUNGS: Final = 2 * CLAIMED


@dataclass(frozen=True, eq=False)
class Seen:
    """What some repetitions showed: one entry a canary and repetition.

    Attributes:
        scores: by statistic, higher for canaries that seem to be in.
        members: who was in.
    """

    scores: dict[str, Scores]
    members: Members


def audit_mechanism(
    study: Study,
    mechanism: PatientMechanism,
    *,
    site: str,
    key: bytes,
    failure: float,
    job: Tracker,
    repetitions: int = REPETITIONS,
    side: int = SIDE,
    parts: Parts = PRODUCTION,
) -> MechanismFinding:
    """Lower bounds on what one site's training reveals about a patient.

    Args:
        study: rounds, steps, clip norm and images of a patient are taken from it.
        mechanism: as the site's plan has it; what it claims is put to the test.
        site: whose it is, to be named.
        key: 32 bytes that everything follows from.
        failure: probability with which any of the bounds may be wrong.
        job: told of each repetition.
        repetitions: tiny studies; a quarter of them only choose how to guess.
        side: pixels of a canary's side; there are as many canaries as pixels.
        parts: the functions put to the test.
    """
    claim = Claim.of(study, mechanism)
    made = canaries(study, mechanism, side)
    tried = capped(study, mechanism, side * side)
    seen = []
    for number in range(repetitions):
        secret = derive(key, repetition=number)
        # A key of its own: neither samples nor noise may depend on the coins.
        members = Stream(derive(secret, purpose="coins")).uniform(side * side) < 0.5
        released = releases(made, tried, members, key=secret, parts=parts)
        seen.append(Seen(statistics(released, claim), members))
        job.advance()
    # Disjoint repetitions: choosing on what is counted would make bounds too large.
    choosing = max(1, repetitions // 4)
    bounds = prove(claim, _pooled(seen[:choosing]), _pooled(seen[choosing:]), failure)
    return MechanismFinding(
        site=site,
        claimed=claim.epsilon,
        delta=claim.delta,
        sampling_rate=claim.rate,
        noise_multiplier=claim.noise_multiplier,
        steps=claim.steps,
        canaries=side * side,
        repetitions=repetitions,
        bounds=bounds,
    )


def statistics(released: npt.NDArray[np.float32], claim: Claim) -> dict[str, Scores]:
    """What a canary's releases, (steps, canaries), say of its having been in.

    ``likelihood`` is the logarithm of the likelihood ratio under the claim, the best there is
    where the claim holds (Neyman and Pearson 1933). ``spread`` is the standard deviation over
    the steps, which reveals noise that repeats.
    """
    values = released.astype(np.float64)
    # N(1, s^2) against N(0, s^2), and below mixed with "not drawn in this step".
    evidence = (values - 0.5) / claim.noise_multiplier**2
    if claim.rate < 1.0:
        evidence = np.logaddexp(np.log1p(-claim.rate), np.log(claim.rate) + evidence)
    return {
        "by likelihood ratio": evidence.sum(axis=0),
        "by spread over the steps": values.std(axis=0),
    }


def prove(claim: Claim, chosen_on: Seen, judged_on: Seen, failure: float) -> tuple[LowerBound, ...]:
    """The three bounds, each allowed a third of the failures."""
    # Union bound: the largest of the three may be reported.
    each = failure / BOUNDS
    name, share = _best_share(claim, chosen_on, each)
    guesses = _guesses(judged_on, name, share)
    at = _best_threshold(chosen_on, each, _gaussian, _MIDDLE)
    rates = _rates(judged_on, *at)
    plain = _best_threshold(
        chosen_on, each, lambda rates, failure: rates_epsilon(rates, claim.delta, failure), _TAILS
    )
    return (
        LowerBound(
            name="trade-off curve, guesses",
            epsilon=_reached(
                claim, lambda curve: curve_is_refuted_by_guesses(guesses, curve, each)
            ),
            confidence=1 - each,
            assumes="the mechanism consists of sampled Gaussian steps; nothing about how canaries "
            "depend on one another",
            source="Mahloujifar, Melis and Chaudhuri 2024",
            detail=f"{guesses.right} of {guesses.made} guesses right ({name})",
        ),
        LowerBound(
            name="trade-off curve, rates",
            epsilon=_reached(claim, lambda curve: curve_is_refuted_by_rates(rates, curve, each)),
            confidence=1 - each,
            assumes="the mechanism consists of sampled Gaussian steps; independent canaries, as "
            "the claim implies",
            source="Nasr et al. 2023; Clopper and Pearson 1934",
            detail=_counts(rates, at[0]),
        ),
        LowerBound(
            name="epsilon and delta, rates",
            epsilon=rates_epsilon(_rates(judged_on, *plain), claim.delta, each),
            confidence=1 - each,
            assumes="independent canaries; nothing about the mechanism",
            source="Clopper and Pearson 1934",
            detail=_counts(_rates(judged_on, *plain), plain[0]),
        ),
    )


def _pooled(seen: Sequence[Seen]) -> Seen:
    names = seen[0].scores
    return Seen(
        {name: np.concatenate([each.scores[name] for each in seen]) for name in names},
        np.concatenate([each.members for each in seen]),
    )


def climb(curve: Callable[[int], TradeOff], refuted: Callable[[TradeOff], bool]) -> int | None:
    """The highest rung of the ladder of noises whose curve is refuted; None where none is.

    Args:
        curve: the trade-off curve at a rung; the higher the rung, the less the noise.
        refuted: whether a curve is; if one is, so are all on lower rungs.
    """
    # Rung 0 has four times the claimed noise: if that is not refuted, nothing was shown.
    if not refuted(curve(0)):
        return None
    low, high = 0, _RUNGS + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if refuted(curve(middle)) else (low, middle)
    return low


def _reached(claim: Claim, refuted: Callable[[TradeOff], bool]) -> float:
    """The largest epsilon whose curve is refuted; 0 where none is."""
    rung = climb(claim.curve, refuted)
    return 0.0 if rung is None else claim.cost(rung)


def _best_share(claim: Claim, seen: Seen, failure: float) -> tuple[str, float]:
    """The statistic and the share of canaries to guess on that would prove most."""

    def proves(choice: tuple[str, float]) -> float:
        guesses = _guesses(seen, *choice)
        return _reached(claim, lambda curve: curve_is_refuted_by_guesses(guesses, curve, failure))

    return max(((name, share) for name in seen.scores for share in SHARES), key=proves)


def _guesses(seen: Seen, name: str, share: float) -> Guesses:
    made = max(1, round(share * len(seen.members)))
    return tail_guesses(seen.scores[name], seen.members, made)


def _best_threshold(
    seen: Seen,
    failure: float,
    worth: Callable[[ErrorRates, float], float],
    places: npt.NDArray[np.float64],
) -> tuple[str, float]:
    """The statistic and the threshold that are worth most, of those among ``places``."""
    choices = [
        (name, float(threshold))
        for name, scores in seen.scores.items()
        for threshold in np.quantile(scores, places)
    ]
    return max(choices, key=lambda choice: worth(_rates(seen, *choice), failure))


def _rates(seen: Seen, name: str, threshold: float) -> ErrorRates:
    called = seen.scores[name] > threshold
    members = int(seen.members.sum())
    caught = int((called & seen.members).sum())
    return ErrorRates(members, caught, len(called) - members, int(called.sum()) - caught)


def _gaussian(rates: ErrorRates, failure: float) -> float:
    """How many standard deviations apart two normal scores would lie: for choosing alone."""
    # Upper ends of intervals: a threshold that looks best by luck has few counts and wide ones.
    missed = at_most(rates.missed, rates.members, failure / 2)
    accused = at_most(rates.accused, rates.others, failure / 2)
    return float(norm.isf(accused) - norm.ppf(missed)) if max(missed, accused) < 1 else -np.inf


def _counts(rates: ErrorRates, name: str) -> str:
    return (
        f"guessed in: {rates.caught} of {rates.members} members, "
        f"{rates.accused} of {rates.others} others ({name})"
    )
