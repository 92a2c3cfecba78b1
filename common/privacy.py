"""Mechanisms and their accounting events, built in one place so that they cannot disagree.

The unit is the patient; neighbouring data sets differ by adding or removing one. A step of
training is the Poisson-sampled Gaussian mechanism (Abadi et al. 2016): each patient takes
part with probability q, is clipped to L2 norm C, and noise of standard deviation
``noise_multiplier * C`` is added to the sum, which is divided by the public number
``q * declared_patients``. An evaluation is one Gaussian mechanism on a histogram.

Within a study, whose parameters are fixed at approval, epsilon is composed with privacy
loss distributions (Koskela et al. 2020; Doroshenko et al. 2022), pessimistically rounded.
Across studies, which are chosen after seeing earlier results, Renyi differential privacy is
added up as a filter (Mironov 2017; Feldman and Zrnic 2021), by Opacus. A patient's split is
a function of that patient alone, so training and validation patients are disjoint whatever
the others do: a patient pays for one of the two, and the study costs the larger.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
from pydantic import Field

from common.errors import PrivacyError
from common.histogram import sensitivity
from common.settings import Section
from common.study import NoPrivacy, PatientPrivacy, Study

ORDERS: Final = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 64),
    *(64, 80, 96, 128, 192, 256, 384, 512, 1024),
)
"""Renyi orders at which the filter adds up."""
MOST_NOISE: Final = 100.0
"""A noise multiplier above this drowns any update; an epsilon that needs it is refused."""
LEAST_NOISE: Final = 0.3
"""A noise multiplier below this protects nobody (one step costs epsilon 19 at delta 1e-5)."""
_DECIMALS: Final = 4
_SAME: Final = 1e-6
"""Relative difference that two machines' arithmetic may show in an epsilon."""
_ROUGH_ORDERS: Final = (1.1, 1.25, 1.5, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""Renyi orders that tell quickly what is out of reach by far."""


class SampledGaussian(Section):
    """An accounting event: ``count`` Gaussian mechanisms on Poisson samples.

    Attributes:
        sampling_rate: probability with which a patient takes part, q.
        noise_multiplier: standard deviation of the noise over the L2 sensitivity.
        count: how many times.
    """

    sampling_rate: float = Field(gt=0, le=1)
    noise_multiplier: float = Field(gt=0, le=10_000)
    count: int = Field(ge=1)


class PatientMechanism(Section):
    """What a site does under ``mode = "patient"``, from public numbers alone.

    Attributes:
        step: one step of training.
        evaluation: one evaluation, or None where the study has none.
        clip_norm: C, the L2 bound of a patient's gradient.
        divisor: the expected batch size, q x declared_patients.
        cell_noise: standard deviation of the noise on each cell of a histogram.
        epsilon_training: what the whole training costs a training patient.
        epsilon_evaluation: what all evaluations cost a validation patient.
        delta: with which probability the two bounds may fail.
    """

    mode: Literal["patient"] = "patient"
    step: SampledGaussian
    evaluation: SampledGaussian | None
    clip_norm: float = Field(gt=0)
    divisor: float = Field(gt=0)
    cell_noise: float = Field(ge=0)
    epsilon_training: float = Field(ge=0)
    epsilon_evaluation: float = Field(ge=0)
    delta: float = Field(gt=0, lt=1)

    @property
    def epsilon(self) -> float:
        """The most that the study costs any one patient of the site."""
        return max(self.epsilon_training, self.epsilon_evaluation)


class NoMechanism(Section):
    """What a site does under ``mode = "none"``: nothing protects the patients.

    Attributes:
        sampling_rate: probability with which a patient takes part in a step.
        divisor: the expected batch size.
    """

    mode: Literal["none"] = "none"
    sampling_rate: float = Field(gt=0, le=1)
    divisor: float = Field(gt=0)

    @property
    def epsilon(self) -> float:
        """Infinite: no bound holds."""
        return math.inf


Mechanism = Annotated[PatientMechanism | NoMechanism, Field(discriminator="mode")]


def mechanism(study: Study, declared_patients: int) -> PatientMechanism | NoMechanism:
    """Calibrate the noise of a whole study for one site, before round one.

    Args:
        study: rounds, steps, batch size, epsilon and delta are taken from it.
        declared_patients: the site's public number of training patients.

    Raises:
        PrivacyError: the epsilon cannot be reached; the message says what could.
    """
    rate = min(1.0, study.training.batch_size / declared_patients)
    divisor = rate * declared_patients
    privacy = study.privacy
    if isinstance(privacy, NoPrivacy):
        return NoMechanism(sampling_rate=rate, divisor=divisor)
    return _patient_mechanism(study, privacy, rate, divisor)


def understated(
    proposed: PatientMechanism | NoMechanism, study: Study, declared_patients: int
) -> str | None:
    """What of a proposed mechanism does not follow from the study, or costs more than said.

    More noise than calibration asks for is fine; every other number must be as computed
    here, and the noise must keep the study's epsilon.

    Returns:
        The name of the first number at fault, or None.
    """
    rate = min(1.0, study.training.batch_size / declared_patients)
    privacy = study.privacy
    if isinstance(privacy, NoPrivacy) or isinstance(proposed, NoMechanism):
        expected = NoMechanism(sampling_rate=rate, divisor=rate * declared_patients)
        return None if proposed == expected and isinstance(privacy, NoPrivacy) else "mode"
    evaluation = proposed.evaluation
    cell_noise = (
        evaluation.noise_multiplier * sensitivity(len(study.task.classes)) if evaluation else 0.0
    )
    holds = {
        "sampling_rate": proposed.step.sampling_rate == rate,
        "count": proposed.step.count == 1 and (evaluation is None or evaluation.count == 1),
        "evaluation": (evaluation is not None) == bool(study.evaluation_rounds)
        and (evaluation is None or evaluation.sampling_rate == 1.0),
        "clip_norm": proposed.clip_norm == privacy.clip_norm,
        "divisor": proposed.divisor == rate * declared_patients,
        "cell_noise": proposed.cell_noise == cell_noise,
        "delta": proposed.delta == privacy.delta,
    }
    wrong = next((name for name, right in holds.items() if not right), None)
    return wrong or _dearer_than_stated(proposed, study, privacy)


def _dearer_than_stated(
    proposed: PatientMechanism, study: Study, privacy: PatientPrivacy
) -> str | None:
    steps = study.training.rounds * study.training.local_steps
    if not _covers(proposed.epsilon_training, proposed.step, steps, privacy.epsilon, privacy.delta):
        return "epsilon_training"
    share = study.evaluation.epsilon_share * privacy.epsilon
    evaluations, event = len(study.evaluation_rounds), proposed.evaluation
    if event and not _covers(proposed.epsilon_evaluation, event, evaluations, share, privacy.delta):
        return "epsilon_evaluation"
    return None


def _covers(
    stated: float, event: SampledGaussian, times: int, allowed: float, delta: float
) -> bool:
    rate, noise = event.sampling_rate, event.noise_multiplier
    if _exceeds(rate, noise, times, delta, allowed):
        return False
    return epsilon_of(rate, noise, times, delta) <= stated * (1 + _SAME) + _SAME


def _patient_mechanism(
    study: Study, privacy: PatientPrivacy, rate: float, divisor: float
) -> PatientMechanism:
    steps = study.training.rounds * study.training.local_steps
    noise = _calibrate_training(study, privacy, rate, steps)
    step = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=1)
    evaluations = len(study.evaluation_rounds)
    evaluation, cell_noise, cost = None, 0.0, 0.0
    if evaluations:
        share = study.evaluation.epsilon_share * privacy.epsilon
        multiplier = _calibrate_evaluation(share, privacy.delta, evaluations)
        evaluation = SampledGaussian(sampling_rate=1.0, noise_multiplier=multiplier, count=1)
        cell_noise = multiplier * sensitivity(len(study.task.classes))
        cost = epsilon(((evaluation, evaluations),), privacy.delta)
    return PatientMechanism(
        step=step,
        evaluation=evaluation,
        clip_norm=privacy.clip_norm,
        divisor=divisor,
        cell_noise=cell_noise,
        epsilon_training=epsilon(((step, steps),), privacy.delta),
        epsilon_evaluation=cost,
        delta=privacy.delta,
    )


def _calibrate_training(study: Study, privacy: PatientPrivacy, rate: float, steps: int) -> float:
    noise = calibrate(privacy.epsilon, privacy.delta, rate, steps)
    if noise <= MOST_NOISE:
        return noise
    safe = 0.999 * MOST_NOISE  # what is advised is reached although calibration rounds up
    least = epsilon_of(rate, safe, steps, privacy.delta)
    most = _most_steps(privacy.epsilon, privacy.delta, rate, safe, steps)
    raise PrivacyError(
        "this epsilon cannot be reached with this data and these rounds",
        where="[privacy] epsilon, [training] rounds",
        found=f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g}, {steps} steps, each on "
        f"{rate:.1%} of the patients: noise {min(noise, 16 * MOST_NOISE):.0f} times the clip norm",
        wanted=f"noise of at most {MOST_NOISE:g} times the clip norm",
        remedy=f"allow epsilon {math.ceil(least * 100) / 100:.2f}"
        f"{_fewer(most, study.training.local_steps)}, "
        "or take a smaller batch_size or find more patients",
    )


def _fewer(most: int, local_steps: int) -> str:
    if most >= local_steps:
        return f", or at most {most // local_steps} rounds of {local_steps} steps"
    return f", or at most 1 round of {most} steps" if most else ""


def _calibrate_evaluation(share: float, delta: float, evaluations: int) -> float:
    noise = calibrate(share, delta, 1.0, evaluations)
    if math.isinf(noise):
        raise PrivacyError(
            "this epsilon leaves evaluations nothing but noise",
            where="[evaluation] epsilon_share, rounds",
            found=f"epsilon {share:g} for {evaluations} evaluations",
            remedy="evaluate in fewer rounds, or give evaluation a larger share",
        )
    return noise


def _most_steps(target: float, delta: float, rate: float, noise: float, steps: int) -> int:
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        if _exceeds(rate, noise, middle, delta, target * (1 - _SAME)):
            high = middle
        else:
            low = middle
    return low


def epsilon_of(rate: float, noise_multiplier: float, count: int, delta: float) -> float:
    """Epsilon of ``count`` sampled Gaussian mechanisms, by privacy loss distribution."""
    event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise_multiplier, count=1)
    return epsilon(((event, count),), delta)


@lru_cache(maxsize=1024)
def epsilon(events: tuple[tuple[SampledGaussian, int], ...], delta: float) -> float:
    """The smallest epsilon known such that the composition is (epsilon, delta) private.

    It is the privacy loss distribution's, on a grid fine enough for the loss of one step.
    Where that loss is too small for any affordable grid, the Renyi bound may be the smaller.

    Args:
        events: each event and how many times it happened.
        delta: the failure probability.
    """
    if not events:
        return 0.0
    loss = min(event.sampling_rate / event.noise_multiplier for event, _ in events)
    accountant = PLDAccountant(value_discretization_interval=1e-3 if loss > 5e-3 else 1e-4)
    for event, times in events:
        gaussian = GaussianDpEvent(event.noise_multiplier)
        sampled = PoissonSampledDpEvent(event.sampling_rate, gaussian)
        accountant.compose(gaussian if event.sampling_rate == 1.0 else sampled, event.count * times)
    found = float(accountant.get_epsilon(delta))
    if loss > 5e-4:
        return found
    divergences = np.sum([times * renyi(event) for event, times in events], axis=0)
    return min(found, filter_epsilon(divergences, delta))


@lru_cache(maxsize=1024)
def calibrate(target: float, delta: float, rate: float, count: int) -> float:
    """The smallest noise multiplier, to four decimals, that keeps ``count`` steps private.

    It leaves room for another machine, whose arithmetic differs in the last digits, to find
    the target kept too.

    Returns:
        The multiplier, at least :data:`LEAST_NOISE`, or infinity where :data:`MOST_NOISE` does
        not suffice by far.
    """
    kept = target * (1 - _SAME)
    most = 16 * MOST_NOISE
    low, high = LEAST_NOISE, min(max(rate * math.sqrt(count) / target, LEAST_NOISE), most)
    while _exceeds(rate, high, count, delta, kept):
        if high == most:
            return math.inf
        low, high = high, min(2 * high, most)
    while high - low > 10**-_DECIMALS * high:
        middle = (low + high) / 2
        if _exceeds(rate, middle, count, delta, kept):
            low = middle
        else:
            high = middle
    return math.ceil(high * 10**_DECIMALS) / 10**_DECIMALS


def _exceeds(rate: float, noise_multiplier: float, count: int, delta: float, target: float) -> bool:
    """Whether epsilon is above ``target``.

    The privacy loss of a mechanism that is far above takes minutes and gigabytes to compose,
    and a plan that was received may ask for it: a Renyi bound, never as loose as this, tells.
    """
    if noise_multiplier < LEAST_NOISE:
        return True
    rough = count * _divergences_at(_ROUGH_ORDERS, rate, noise_multiplier)
    if _best(_ROUGH_ORDERS, rough, delta) > 3 * target + 1:
        return True
    return epsilon_of(rate, noise_multiplier, count, delta) > target


@lru_cache(maxsize=4096)
def _divergences_at(
    orders: tuple[float, ...], rate: float, noise_multiplier: float
) -> npt.NDArray[np.float64]:
    return np.asarray(
        compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=orders)
    )


def renyi(event: SampledGaussian) -> npt.NDArray[np.float64]:
    """Renyi divergences of an event at :data:`ORDERS`, float64; they add under composition."""
    return _divergences_at(ORDERS, event.sampling_rate, event.noise_multiplier) * event.count


def filter_epsilon(divergences: npt.NDArray[np.float64], delta: float) -> float:
    """Epsilon of Renyi divergences that were added up at :data:`ORDERS`.

    Valid also where each event was chosen after seeing the results of the earlier ones, as
    long as the caller stops before the bound is passed (Feldman and Zrnic 2021, theorem 4.3).
    """
    if not divergences.any():
        return 0.0
    if np.isinf(divergences).all():
        return math.inf
    return _best(ORDERS, divergences, delta)


def _best(orders: tuple[float, ...], divergences: npt.NDArray[np.float64], delta: float) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order may be the largest: still a bound
        best, _ = get_privacy_spent(orders=orders, rdp=divergences, delta=delta)
    return max(float(best), 0.0)
