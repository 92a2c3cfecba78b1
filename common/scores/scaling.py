"""Scores that agree better with what comes true, fitted to histograms that were released.

Reading a release costs no privacy, so a model can be calibrated after its evaluation, with no
patient looked at again. Two classes: the logit of class 1 is multiplied by a slope and moved by an
offset (Platt 1999). More classes: one temperature (Guo et al. 2017), the slope being its inverse.
Of more classes the histogram has margins: with rivals ``j`` the score of the named class k has the
logit ``z_k - max z_j``, which a temperature divides as it does every logit. It is fitted to how
often the named class is right at each margin. Were there two classes only, that would be
``sigmoid(slope * margin)``; the others take ``log(1 + g)`` from the logit, where g is what the
others have together over the largest rival's share, at most ``classes - 2``. That is a nuisance
offset, taken as the same for all margins, fitted with the slope and then left out.

**Estimating.** With ``y_b`` and ``x_b`` the counts of positives and negatives in bin b, ``p_b`` the
mean scaled score of its patients (:mod:`common.scores.logits`) and ``d_b`` its derivatives, the
equations are::

    sum over b of  n_b d_b / V_b * (y_b - p_b (y_b + x_b))  =  penalty

They are linear in the counts, so noise leaves them unbiased. The weights are the best that there
are (quasi-likelihood; Wedderburn 1974): ``V_b = n_b p_b (1 - p_b) + v_y (1 - p_b)^2 + v_x p_b^2``
is the variance of what a bin adds, by sampling and by noise of the cells' variances ``v_y`` and
``v_x``, and ``n_b`` the patients that a smooth fit expects there.

**Shrinking.** The weights make the information ``P = sum of n_b^2 d_b d_b' / V_b``: it grows with
the number of patients, and falls with the noise variance as ``patients^2 / noise``. The penalty is
that of a prior, as if the logarithm of the slope and the offset were drawn around the identity with
the standard deviations ``SLOPE`` and ``OFFSET``, which span what networks need. The result is the
best linear mix of the two: with much noise P vanishes, and what is left is the identity. The slope
is the exponential of what is fitted, so it is positive. Where the data have less information than
the prior about all that is fitted, or noise may be all that there is of the positives or of the
negatives, the result is the identity itself, and says why.

**Doing no harm.** Few patients fit some slope to a model that needs none. So the result is the
identity, too, where a test at 5 % (Wald's, by sampling and by noise) does not show that another is
needed. In simulations it did find something in 0 to 14 of 100 models that need nothing.

**What does not hold.** The end bins' logits are extrapolated. With many classes the nuisance offset
is not quite the same at all margins: in simulations the slope came out too low by 1 to 7 % with 3
classes and by 6 to 10 % with 7, which leaves scores a little too cautious. A scaling of two classes
with an offset moves the decision at one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, expit, logit, softmax

from common.figures.calibration import Scaled, calibration_error
from common.figures.histogram import planes, release_shape
from common.figures.intervals import Estimate, Evidence, Z
from common.scores.logits import Spread, spread

SLOPE: Final = 0.7
"""Prior standard deviation of the slope's logarithm: 95 % of networks need 1/4 to 4."""
OFFSET: Final = 1.0
"""Prior standard deviation of the offset: a share of positives some three times as large."""
NOT_NEEDED: Final = "the scores agree with what comes true, as far as noise and sampling tell"
_STEEPEST: Final = float(np.log(20.0))
_STEPS: Final = 100


@dataclass(frozen=True)
class Scaling:
    """A map of scores. Public once released.

    Attributes:
        slope: of logits; positive. 1 leaves them.
        offset: added to the logit of class 1 of two classes; 0 with more.
        why: where a fit is the identity, why: too little information, or no need; else None.
    """

    slope: float = 1.0
    offset: float = 0.0
    why: str | None = None

    def __post_init__(self) -> None:
        if not (0.0 < self.slope < np.inf and np.isfinite(self.offset)):
            raise ValueError(f"no scores follow from slope {self.slope} and offset {self.offset}")

    def apply(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scaled probabilities. Sensitive, as the scores are.

        A patient whose scores are not finite, or all zero, counts as one of whom the model knows
        nothing: an equal probability for each class, as in the histogram.

        Args:
            scores: (patients, classes), the patients' mean class probabilities.

        Returns:
            (patients, classes) float64, of which each row adds up to 1.
        """
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ValueError(f"scores are (patients, classes), not of shape {scores.shape}")
        known = np.clip(scores.astype(np.float64), 0.0, 1.0)
        unknown = ~np.isfinite(scores).all(axis=1) | (known.sum(axis=1) <= 0.0)
        known[unknown] = 1.0 / known.shape[1]
        if known.shape[1] == 2:
            positive = expit(self.slope * logit(known[:, 1]) + self.offset)
            return np.stack([1.0 - positive, positive], axis=1)
        tiny = np.finfo(np.float64).tiny
        return np.asarray(softmax(self.slope * np.log(np.maximum(known, tiny)), axis=1))


@dataclass(frozen=True)
class _Evidence:
    """What a fit reads: counts of right and wrong, their noise, and where the prior is."""

    of: tuple[str, str]
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    noise: tuple[float, float]
    spread: Spread
    centre: NDArray[np.float64]
    prior: NDArray[np.float64]


def fit(counts: NDArray[np.integer], *, noise_variance: float) -> Scaling:
    """The scaling that a pooled histogram speaks for.

    Args:
        counts: (classes, planes, bins), the sum of the sites' releases, never clipped.
        noise_variance: variance of the noise in each cell of the sum, in counts squared.

    Returns:
        The identity, with the reason in ``why``, where there is too little information, or nothing
        that is shown to be wrong.

    Raises:
        ValueError: the histogram's shape is not that of a release, or the variance is negative.
    """
    classes, _, bins = counts.shape
    if counts.shape != release_shape(classes, bins):
        raise ValueError(f"{counts.shape} is not the shape of a release")
    if not noise_variance >= 0.0:
        raise ValueError(f"a noise variance is at least 0, not {noise_variance}")
    read = _read(counts, noise_variance)
    if (why := _drowned(read)) is not None:
        return Scaling(why=why)
    solved = _solved(read)
    if solved is None:
        return Scaling(why="the counts contradict each other: no scaling fits them best")
    if not _informed(read, solved, read.noise):
        return Scaling(why=_lacking(read))
    if not _needed(read, solved):
        return Scaling(why=NOT_NEEDED)
    slope = float(np.exp(solved[0]))
    return Scaling(slope, float(solved[1]) if planes(classes) == 1 else 0.0)


def _read(counts: NDArray[np.integer], noise_variance: float) -> _Evidence:
    """Positives and negatives of two classes; of more, those named rightly and wrongly."""
    classes, count, bins = counts.shape
    edges = np.arange(bins + 1) / bins
    if count == 1:
        of = ("patients of class 1", "patients of class 0")
        y, x, noise = counts[1, 0], counts[0, 0], (noise_variance, noise_variance)
        centre, prior = np.zeros(2), np.array([SLOPE, OFFSET])
    else:
        # At or above one half a score is that of the class that the model names.
        of = ("patients named rightly", "patients named wrongly")
        edges, named = edges[bins // 2 :], counts[:, :, bins // 2 :]
        y = np.trace(named)
        x = named.sum(axis=(0, 1)) - y
        noise = (noise_variance * classes, noise_variance * classes * (classes - 1))
        # The nuisance offset lies between that of no other rival and that of all being equal.
        middle = -0.5 * float(np.log(classes - 1.0))
        centre, prior = np.array([0.0, middle]), np.array([SLOPE, -middle])
    y, x = y.astype(np.float64), x.astype(np.float64)
    return _Evidence(of, y, x, noise, spread(y, x, edges, noise=noise), centre, prior)


def _means(
    where: Spread, settings: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each bin's mean scaled score, and its derivatives by log slope and offset (2, bins)."""
    steep = np.exp(settings[0]) * where.logits
    scaled = expit(steep + settings[1])
    rise = where.weights * scaled * (1.0 - scaled)
    by = np.stack([(rise * steep).sum(axis=1), rise.sum(axis=1)])
    mean = (where.weights * scaled).sum(axis=1)
    return np.clip(mean, 1e-9, 1.0 - 1e-9), by


def _variance(
    mean: NDArray[np.float64], patients: NDArray[np.float64], noise: tuple[float, float]
) -> NDArray[np.float64]:
    """Of ``y - p (y + x)`` in each bin, by sampling and by noise."""
    by_noise = noise[0] * (1.0 - mean) ** 2 + noise[1] * mean**2
    return np.asarray(patients * mean * (1.0 - mean) + by_noise)


def _information(
    read: _Evidence, settings: NDArray[np.float64], noise: tuple[float, float]
) -> NDArray[np.float64]:
    mean, by = _means(read.spread, settings)
    patients = read.spread.patients
    return np.asarray((by * patients**2 / _variance(mean, patients, noise)) @ by.T)


def _solved(read: _Evidence) -> NDArray[np.float64] | None:
    """Log slope and offset that solve the penalised equations, by Fisher's scoring."""
    penalty = np.diag(read.prior**-2.0)
    settings, length = read.centre.copy(), 1.0
    last: NDArray[np.float64] = np.zeros_like(settings)
    for _ in range(_STEPS):
        mean, by = _means(read.spread, settings)
        patients = read.spread.patients
        weights = by * patients / _variance(mean, patients, read.noise)
        pull = weights @ (read.y - mean * (read.y + read.x))
        pull -= penalty @ (settings - read.centre)
        information = _information(read, settings, read.noise) + penalty
        step = np.linalg.solve(information, pull)
        # A slope at its bound stays there, and the offset is fitted alone.
        if abs(settings[0]) == _STEEPEST and step[0] * settings[0] > 0.0:
            step = np.array([0.0, pull[1] / information[1, 1]])
        if np.abs(step).max() < 1e-7:
            return settings
        # A long step leaves the region that its derivatives describe; one that turns back, too.
        length *= 0.5 if step @ last < 0.0 else 1.0
        last = np.asarray(step * min(length, 0.5 / float(np.abs(step).max())), np.float64)
        settings += last
        settings[0] = np.clip(settings[0], -_STEEPEST, _STEEPEST)
    return None


def _fitted(read: _Evidence) -> int:
    """How many settings are no nuisance: slope and offset, or the slope."""
    return 1 if read.centre.any() else 2


def _informed(read: _Evidence, settings: NDArray[np.float64], noise: tuple[float, float]) -> bool:
    """Whether the counts say more than the prior about anything that is not a nuisance."""
    information = _information(read, settings, noise) + np.diag(read.prior**-2.0)
    left = np.diag(np.linalg.inv(information)) / read.prior**2
    return bool((left[: _fitted(read)] < 0.5).any())


def _needed(read: _Evidence, settings: NDArray[np.float64]) -> bool:
    """Whether the identity lies outside the 95 % region of what the counts alone say (Wald)."""
    variance = np.linalg.pinv(_information(read, settings, read.noise), hermitian=True)
    # What the penalty has drawn in is put out again.
    shrunk = settings - read.centre
    moved = shrunk + variance @ (shrunk / read.prior**2)
    size = _fitted(read)
    distance = moved[:size] @ np.linalg.pinv(variance[:size, :size], hermitian=True) @ moved[:size]
    return bool(distance > chdtri(size, 0.05))


def _drowned(read: _Evidence) -> str | None:
    """Why nothing can be fitted where noise may be all that there is of the positives or others."""
    for of, counts, variance in zip(read.of, (read.y, read.x), read.noise, strict=True):
        evidence = Evidence(of, float(counts.sum()), float(np.sqrt(len(counts) * variance)))
        if evidence.count <= Z * evidence.noise:
            return evidence.lacking(by_noise=variance > 0.0)
    return None


def _lacking(read: _Evidence) -> str:
    noise = float(np.sqrt(len(read.y) * sum(read.noise)))
    evidence = Evidence("patients", float(read.y.sum() + read.x.sum()), noise)
    by_noise = sum(read.noise) > 0.0 and _informed(read, read.centre, (0.0, 0.0))
    return evidence.lacking(by_noise=by_noise)


def errors(
    counts: NDArray[np.integer], scaling: Scaling, *, noise_variance: float
) -> tuple[Estimate, Estimate]:
    """Expected calibration error before and after a scaling, from the histogram it was fitted to.

    Two numbers fitted to the same bins make their gaps a little smaller than new patients would
    show; the upper end of the interval allows for more, since noise and sampling add to every gap
    and that end takes nothing of it away (``tests/common/figures/test_scaling.py`` counts how
    often it covers). Where in its bin a patient lies is not known, and after scaling a bin may be
    wide: the interval allows for its width, as a steep scaling shows.

    Args:
        counts: (2, 1, bins) pooled histogram, never clipped.
        scaling: of :func:`fit`.
        noise_variance: variance of the noise in each cell.

    Raises:
        ValueError: more than two classes, whose scores are margins and cannot be calibrated.
    """
    if counts.shape[1] != 1:
        raise ValueError("a histogram of margins has no calibration error")
    read = _read(counts, noise_variance)
    settings = np.array([np.log(scaling.slope), scaling.offset])
    mean, _ = _means(read.spread, settings)
    edges = expit(scaling.slope * logit(np.arange(len(mean) + 1) / len(mean)) + scaling.offset)
    width = np.maximum(edges[1:] - mean, mean - edges[:-1])
    blur = float(width @ read.spread.patients / read.spread.patients.sum())
    before, after = (
        calibration_error(counts[1, 0], counts[0, 0], noise_variance=noise_variance, scaled=at)
        for at in (None, Scaled(mean, blur))
    )
    return before, after
