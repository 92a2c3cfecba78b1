"""Figures with 95 % intervals, computed from counts that carry known noise.

A share of patients is a ratio of two noisy counts, so its interval is found by inverting a
test, as Fieller (1954) does for ratios: a share p is kept when ``successes - p * total`` is
within 1.96 standard deviations of zero. Its variance has the sampling part of Wilson's score
interval (1927), ``total * p * (1 - p)``, and the part of the privacy noise. A total that the
noise drowns leaves every p in, and the figure is then reported as meaningless rather than as
a number. Means over classes follow Zou and Donner (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

WIDEST = 0.4
"""An interval wider than this says too little to be called a figure."""


@dataclass(frozen=True)
class Estimate:
    """One figure with its 95 % interval. Public once released.

    Attributes:
        value: the figure, clipped to its range; None where it cannot be computed.
        low: lower end of the interval.
        high: upper end of the interval.
        meaningful: False where noise or a lack of patients makes the figure useless.
        why: why it is not meaningful, in plain words; None where it is.
    """

    value: float | None
    low: float
    high: float
    meaningful: bool = True
    why: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What a figure rests on, for the sentence that says why it means nothing.

    Attributes:
        of: the patients counted, in words: "patients of class 1".
        count: how many were counted, as read through the noise.
        noise: standard deviation of the noise in ``count``.
    """

    of: str
    count: float
    noise: float

    def lacking(self, *, by_noise: bool) -> str:
        """Why a figure that rests on this evidence means nothing."""
        if by_noise:
            return (
                f"noise exceeds signal: {self.count:.0f} {self.of} "
                f"read through noise of ±{Z * self.noise:.0f}"
            )
        return f"too few patients: {max(self.count, 0.0):.0f} {self.of}"


def absent(why: str) -> Estimate:
    """A figure that cannot be computed."""
    return Estimate(None, 0.0, 1.0, meaningful=False, why=why)


def too_wide(ends: tuple[float, float], widest: float = WIDEST) -> bool:
    """Whether an interval says too little."""
    return ends[1] - ends[0] > widest


def judged(
    value: float, ends: tuple[float, float], *, why: str, widest: float = WIDEST
) -> Estimate:
    """The figure clipped to [0, 1], and flagged where its interval is too wide to mean anything.

    Args:
        value: the figure as computed; may lie outside [0, 1] through noise.
        ends: the interval, noise included.
        why: what to say if it means nothing.
        widest: the widest interval that still says something.
    """
    value, low, high = (float(np.clip(x, 0.0, 1.0)) for x in (value, *ends))
    low, high = min(low, value), max(high, value)
    meaningful = not too_wide((low, high), widest)
    return Estimate(value, low, high, meaningful, None if meaningful else why)


def _same(share: float) -> float:
    return share


def share(
    successes: float,
    failures: float,
    *,
    noise: tuple[float, float] = (0.0, 0.0),
    of: str,
    scale: Callable[[float], float] = _same,
    z: float = Z,
) -> Estimate:
    """``successes / (successes + failures)`` with an interval for sampling and noise.

    Args:
        successes: count, unbiased, possibly negative through noise.
        failures: count over other cells than ``successes``.
        noise: noise variances of the two counts; independent.
        of: the patients counted together, in words.
        scale: increasing function on [0, 1] applied to the figure and its interval.
        z: how many standard deviations the interval reaches; more than 1.96 where several shares
            are to lie in their intervals together.
    """
    total = successes + failures
    evidence = Evidence(of, total, float(np.sqrt(sum(noise))))
    if total <= 0.0:
        return absent(evidence.lacking(by_noise=sum(noise) > 0.0))
    counts = max(successes, 0.0), max(failures, 0.0)
    low, high = _share_ends(*counts, noise, z)
    quiet_low, quiet_high = _share_ends(*counts, (0.0, 0.0), z)
    by_noise = not too_wide((scale(quiet_low), scale(quiet_high)))
    return judged(
        scale(counts[0] / sum(counts)),
        (scale(low), scale(high)),
        why=evidence.lacking(by_noise=by_noise),
    )


def _share_ends(
    successes: float, failures: float, noise: tuple[float, float], z: float
) -> tuple[float, float]:
    """The shares p for which ``successes - p * total`` is compatible with zero.

    ``(s - p t)^2 <= z^2 (t p (1 - p) + v_s (1 - p)^2 + v_f p^2)`` is a quadratic in p. Counts
    are at least zero, so that ``s / t`` always satisfies it.
    """
    total, squared = successes + failures, z * z
    curve = total**2 + squared * (total - noise[0] - noise[1])
    slope = -2.0 * successes * total - squared * total + 2.0 * squared * noise[0]
    level = successes**2 - squared * noise[0]
    # The noise drowns the total: every share fits the counts (Fieller's unbounded case).
    if curve <= 0.0:
        return 0.0, 1.0
    middle = -slope / (2.0 * curve)
    reach = float(np.sqrt(max(middle**2 - level / curve, 0.0)))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def counted(number: float, variance: float) -> Estimate:
    """A number of patients, give or take the noise alone.

    Args:
        number: as read, not clipped.
        variance: of the noise in it.
    """
    reach = Z * float(np.sqrt(variance))
    if number - reach <= 0.0 < reach:
        why = f"noise exceeds signal: {number:.0f} patients read through noise of ±{reach:.0f}"
        return Estimate(number, number - reach, number + reach, meaningful=False, why=why)
    return Estimate(number, number - reach, number + reach)


def mean(parts: Sequence[Estimate], *, independent: bool) -> Estimate:
    """The plain mean of several figures.

    Args:
        parts: the figures, such as one for each class.
        independent: whether they come from different patients. If so, the interval's arms add
            in squares (Zou and Donner 2008). If not, or where an arm is cut short because a part
            means nothing, the interval runs between the means of the ends, which holds however
            the parts depend on each other.
    """
    values = [part.value for part in parts if part.value is not None]
    why = next((part.why for part in parts if part.why is not None), None)
    if len(values) < len(parts):
        return absent(why or "a class has no figure")
    value = float(np.mean(values))
    down = np.array([v - part.low for v, part in zip(values, parts, strict=True)])
    up = np.array([part.high - v for v, part in zip(values, parts, strict=True)])
    # Zou and Donner's arms: the root of the sum of squares where the parts are independent.
    norm = 2 if independent and all(part.meaningful for part in parts) else 1
    low = value - float(np.linalg.norm(down, norm)) / len(parts)
    high = value + float(np.linalg.norm(up, norm)) / len(parts)
    return judged(value, (low, high), why=why or "the interval is too wide")
