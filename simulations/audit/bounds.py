"""What a game of guesses proves about epsilon: lower bounds that hold with a stated confidence.

A *canary* is a made-up patient, in or out of the data by a fair coin. Whoever sees what a
mechanism released gives each canary a score, and guesses. Privacy bounds how often guesses can
be right; too many right ones refute the claim. Four ways of counting:

* :func:`one_run_p_value`: any (epsilon, delta) private mechanism, all canaries in one run,
  nothing assumed (Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, theorem 5.2).
* :func:`curve_is_refuted_by_guesses`: a whole trade-off curve, all canaries in one run, nothing
  assumed (Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235, algorithm 3).
* :func:`curve_is_refuted_by_rates`: the same curve against a test's true and false positive rate,
  each within its interval of Clopper and Pearson (1934); after Nasr et al. 2023
  (arXiv:2302.07956), with the mechanism's own curve in place of a Gaussian's. The canaries'
  outcomes have to be independent, as they are under the claim that is put to the test.
* :func:`rates_epsilon`: (epsilon, delta) from the same two intervals, without a curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, expit
from scipy.stats import binom

from simulations.audit.tradeoff import TradeOff

MOST_EPSILON: Final = 100.0
"""Larger lower bounds are given as this."""
# 100 / 2^40 is far below what any figure shows.
_HALVINGS: Final = 40


@dataclass(frozen=True)
class Guesses:
    """How a game ended.

    Attributes:
        canaries: how many there were, each in or out by a fair coin.
        made: guesses, the rest being abstentions; fixed before the outcome was seen.
        right: guesses that were right.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"no game ends with {self}")


@dataclass(frozen=True)
class ErrorRates:
    """What a test did that says *in* above a threshold chosen on other canaries.

    Attributes:
        members: canaries that were in.
        caught: of those, how many the test called in.
        others: canaries that were out.
        accused: of those, how many the test called in.
    """

    members: int
    caught: int
    others: int
    accused: int

    @property
    def reversed(self) -> ErrorRates:
        """The same test, saying *out* below the threshold."""
        return ErrorRates(self.others, self.others - self.accused, self.members, self.missed)

    @property
    def missed(self) -> int:
        """Members that the test called out."""
        return self.members - self.caught


def one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """How likely this number of right guesses is, at most, under (epsilon, delta) privacy.

    A pure epsilon-private mechanism is right in at most a share ``1 / (1 + exp(-epsilon))`` of
    the guesses, as randomised response is. Delta adds, for the worst number i of guesses that
    it may turn, ``2 delta m / i`` times the probability that i more were needed.
    """
    lacking = np.arange(1, guesses.right + 1)
    share = expit(epsilon)
    chance = binom.sf(guesses.right - 1, guesses.made, share)
    within = np.cumsum(binom.pmf(guesses.right - lacking, guesses.made, share))
    worst = float((within / lacking).max(initial=0.0))
    return min(1.0, float(chance) + 2.0 * guesses.canaries * delta * worst)


def one_run_epsilon(guesses: Guesses, delta: float, failure: float) -> float:
    """The largest epsilon that the guesses refute.

    Args:
        guesses: how the game ended.
        delta: of the claim.
        failure: probability with which the bound may be wrong: one minus the confidence.

    Returns:
        With probability ``1 - failure`` at most the mechanism's epsilon; 0 where nothing is shown.
    """
    return _largest(lambda epsilon: one_run_p_value(guesses, epsilon, delta) < failure)


def curve_is_refuted_by_guesses(guesses: Guesses, curve: TradeOff, failure: float) -> bool:
    """Whether there are too many right guesses for a mechanism with this trade-off curve.

    Walking down from the number that was right, ``right`` and ``wrong`` are the probability
    that a guess is among the right (wrong) ones of a game with at least i right. The curve
    bounds ``wrong`` from below by ``right``; once both together exceed the share of canaries
    that are guessed on, no such mechanism exists.
    """
    share = guesses.made / guesses.canaries
    right = failure * guesses.right / guesses.canaries
    wrong = failure * (guesses.made - guesses.right) / guesses.canaries
    for number in range(guesses.right - 1, -1, -1):
        before, wrong = wrong, max(wrong, curve.least(right))
        right += number / (guesses.made - number) * (wrong - before)
        if right + wrong > share:
            return True
    return False


def curve_is_refuted_by_rates(rates: ErrorRates, curve: TradeOff, failure: float) -> bool:
    """Whether a test is better than any on a mechanism with this trade-off curve can be."""
    caught, accused = _intervals(rates, failure)
    return caught > curve.most(accused)


def rates_epsilon(rates: ErrorRates, delta: float, failure: float) -> float:
    """The epsilon that a test's rates prove: ``log((TPR - delta) / FPR)``, or its mirror image."""
    # The better of two tests: each may fail with half of the probability.
    return max(
        _one_sided(rates, delta, failure / 2), _one_sided(rates.reversed, delta, failure / 2)
    )


def _one_sided(rates: ErrorRates, delta: float, failure: float) -> float:
    caught, accused = _intervals(rates, failure)
    if caught <= delta:
        return 0.0
    # From TPR <= exp(epsilon) FPR + delta (Kairouz, Oh and Viswanath 2015, arXiv:1311.0776).
    return min(max(0.0, math.log((caught - delta) / accused)), MOST_EPSILON)


def _intervals(rates: ErrorRates, failure: float) -> tuple[float, float]:
    """True positives at least, false positives at most; both hold but with ``failure``."""
    # Two intervals, each with half of the failure (union bound).
    at_least = at_most(rates.missed, rates.members, failure / 2)
    return 1.0 - at_least, at_most(rates.accused, rates.others, failure / 2)


def at_most(successes: int, trials: int, failure: float) -> float:
    """The upper end of Clopper and Pearson's one-sided interval for a probability."""
    if successes >= trials:
        return 1.0
    return float(betaincinv(successes + 1, trials - successes, 1.0 - failure))


def tail_guesses(
    scores: npt.NDArray[np.float64], members: npt.NDArray[np.bool_], made: int
) -> Guesses:
    """Guess *in* for the highest scores and *out* for as many of the lowest.

    Args:
        scores: float64 (canaries,), higher for those that seem to be in.
        members: bool (canaries,), the truth.
        made: guesses in all, fixed before the scores were seen.
    """
    # Stable: which of two equal scores is guessed on must not depend on the sorting algorithm.
    order = np.argsort(scores, kind="stable")
    low, high = made // 2, made - made // 2
    right = int(members[order[len(order) - high :]].sum()) + int((~members[order[:low]]).sum())
    return Guesses(len(scores), made, right)


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest epsilon that is refuted, by halving; 0 where none is."""
    low, high = 0.0, MOST_EPSILON
    if not refuted(low):
        return 0.0
    if refuted(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
