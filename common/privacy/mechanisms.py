"""Mechanisms and their accounting events, built in one place so that they cannot disagree.

The unit is the patient; neighbouring data sets differ by adding or removing one. A step of
training is the Poisson-sampled Gaussian mechanism (Abadi et al. 2016): each patient takes
part with probability q, is clipped to L2 norm C, and noise of standard deviation
``noise_multiplier * C * (1 + GAMMA)`` is added to the sum, which is divided by the public
number ``q * declared_patients``. A sample of more than ``most_sampled`` patients counts as the
empty one (:mod:`common.privacy.cap`). An evaluation is one Gaussian mechanism on a histogram. What
they cost is :mod:`common.privacy.accounting`.

A patient's split is a function of that patient alone, so training and validation patients are
disjoint whatever the others do: a patient pays for one of the two, and the study costs the
larger.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from pydantic import Field

from common.errors import PrivacyError
from common.privacy.accounting import (
    MOST_NOISE,
    SAME,
    SampledGaussian,
    calibrate,
    epsilon,
    epsilon_of,
    exceeds,
)
from common.privacy.cap import composed, least_cap
from common.settings import Section
from common.study.study_file import NoPrivacy, PatientPrivacy, Study

GAMMA: Final = 1e-3
"""By how much floating-point arithmetic may lengthen a clipped gradient, relative to the clip
norm. ``docs/privacy.md`` argues for the number; noise is calibrated to it."""


class PatientMechanism(Section):
    """What a site does under ``mode = "patient"``, from public numbers alone.

    Attributes:
        step: one step of training.
        evaluation: one evaluation, or None where the study has none.
        most_sampled: patients that a step works on, at most: of a larger sample, on none.
        clip_norm: C, the L2 bound of a patient's gradient, up to :data:`GAMMA`.
        divisor: the expected batch size, q x declared_patients.
        cell_noise: standard deviation of the noise on each cell of a histogram.
        epsilon_training: what the whole training costs a training patient.
        epsilon_evaluation: what all evaluations cost a validation patient.
        delta: with which probability the two bounds may fail.
    """

    mode: Literal["patient"] = "patient"
    step: SampledGaussian
    evaluation: SampledGaussian | None
    most_sampled: int = Field(ge=1)
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

    @property
    def composed_delta(self) -> float:
        """The part of delta at which steps are composed; the rest pays for the cap."""
        return composed(self.delta)

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise on each coordinate of a step's sum."""
        return self.step.noise_multiplier * self.clip_norm * (1 + GAMMA)


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


def mechanism(
    study: Study, declared_patients: int, most_patients: int
) -> PatientMechanism | NoMechanism:
    """Calibrate the noise of a whole study for one site, before round one.

    Args:
        study: rounds, steps, batch size, epsilon and delta are taken from it.
        declared_patients: the site's public number of training patients.
        most_patients: the site's public bound on them.

    Raises:
        PrivacyError: the epsilon cannot be reached; the message says what could.
    """
    # From the declared number: the true one is private, and would be in every gradient's scale.
    rate = sampling_rate(study, declared_patients)
    divisor = rate * declared_patients
    privacy = study.privacy
    if isinstance(privacy, NoPrivacy):
        return NoMechanism(sampling_rate=rate, divisor=divisor)
    cap = most_sampled(study, declared_patients, most_patients)
    return _patient_mechanism(study, privacy, rate, divisor, cap)


def sampling_rate(study: Study, declared_patients: int) -> float:
    """The probability with which a patient of a site takes part in a step; 1 of a one-shot study.

    Args:
        study: as for :func:`mechanism`.
        declared_patients: as there.
    """
    return 1.0 if study.one_shot else min(1.0, study.training.batch_size / declared_patients)


def most_sampled(study: Study, declared_patients: int, most_patients: int) -> int:
    """How many patients a step of a study works on at one site, at most.

    Args:
        study: as for :func:`mechanism`; without privacy, a step may work on all.
        declared_patients: as there.
        most_patients: as there.
    """
    privacy = study.privacy
    if isinstance(privacy, NoPrivacy):
        return most_patients
    rate = sampling_rate(study, declared_patients)
    return least_cap(most_patients, rate, _steps(study), privacy.epsilon, privacy.delta)


def understated(
    proposed: PatientMechanism | NoMechanism,
    study: Study,
    declared_patients: int,
    most_patients: int,
) -> str | None:
    """What of a proposed mechanism does not follow from the study, or costs more than said.

    More noise than calibration asks for is fine; every other number must be as computed
    here, and the noise must keep the study's epsilon.

    Returns:
        The name of the first number at fault, or None.
    """
    rate = sampling_rate(study, declared_patients)
    privacy = study.privacy
    if isinstance(privacy, NoPrivacy) or isinstance(proposed, NoMechanism):
        expected = NoMechanism(sampling_rate=rate, divisor=rate * declared_patients)
        return None if proposed == expected and isinstance(privacy, NoPrivacy) else "mode"
    evaluation = proposed.evaluation
    cell_noise = (
        evaluation.noise_multiplier * study.task.release(study.evaluation.bins).bound
        if evaluation
        else 0.0
    )
    holds = {
        "sampling_rate": proposed.step.sampling_rate == rate,
        "count": proposed.step.count == 1 and (evaluation is None or evaluation.count == 1),
        "evaluation": (evaluation is not None) == bool(study.evaluation_rounds)
        and (evaluation is None or evaluation.sampling_rate == 1.0),
        "most_sampled": proposed.most_sampled
        == most_sampled(study, declared_patients, most_patients),
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
    steps, delta = _steps(study), composed(privacy.delta)
    if not _covers(proposed.epsilon_training, proposed.step, steps, privacy.epsilon, delta):
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
    if exceeds(rate, noise, times, delta, allowed):
        return False
    return epsilon_of(rate, noise, times, delta) <= stated * (1 + SAME) + SAME


def _steps(study: Study) -> int:
    return study.training.rounds * study.training.local_steps


def _patient_mechanism(
    study: Study, privacy: PatientPrivacy, rate: float, divisor: float, cap: int
) -> PatientMechanism:
    steps = _steps(study)
    noise = _calibrate_training(study, privacy, rate, steps)
    step = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=1)
    evaluations = len(study.evaluation_rounds)
    evaluation, cell_noise, cost = None, 0.0, 0.0
    if evaluations:
        share = study.evaluation.epsilon_share * privacy.epsilon
        # An evaluation scores everyone: it has no sample to cap, so the whole of delta is its own.
        multiplier = _calibrate_evaluation(share, privacy.delta, evaluations)
        evaluation = SampledGaussian(sampling_rate=1.0, noise_multiplier=multiplier, count=1)
        cell_noise = multiplier * study.task.release(study.evaluation.bins).bound
        cost = epsilon(((evaluation, evaluations),), privacy.delta)
    return PatientMechanism(
        step=step,
        evaluation=evaluation,
        most_sampled=cap,
        clip_norm=privacy.clip_norm,
        divisor=divisor,
        cell_noise=cell_noise,
        epsilon_training=epsilon(((step, steps),), composed(privacy.delta)),
        epsilon_evaluation=cost,
        delta=privacy.delta,
    )


def _calibrate_training(study: Study, privacy: PatientPrivacy, rate: float, steps: int) -> float:
    delta = composed(privacy.delta)
    noise = calibrate(privacy.epsilon, delta, rate, steps)
    if noise <= MOST_NOISE:
        return noise
    safe = 0.999 * MOST_NOISE  # what is advised is reached although calibration rounds up
    least = epsilon_of(rate, safe, steps, delta)
    most = _most_steps(privacy.epsilon, delta, rate, safe, steps)
    raise PrivacyError(
        "this epsilon cannot be reached with this data and these rounds",
        where="[privacy] epsilon, [training] rounds",
        found=f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g}, {steps} steps, each on "
        f"{rate:.1%} of the patients: noise {min(noise, 16 * MOST_NOISE):.0f} times the clip norm",
        wanted=f"noise of at most {MOST_NOISE:g} times the clip norm",
        remedy=f"allow epsilon {math.ceil(least * 100) / 100:.2f}"
        f"{_fewer(most, study.training.local_steps)}, "
        "or use a smaller batch_size or more patients",
    )


def _fewer(most: int, local_steps: int) -> str:
    if most >= local_steps:
        return f", or at most {most // local_steps} rounds of {local_steps} steps"
    return f", or at most 1 round of {most} steps" if most else ""


def _calibrate_evaluation(share: float, delta: float, evaluations: int) -> float:
    noise = calibrate(share, delta, 1.0, evaluations)
    if math.isinf(noise):
        raise PrivacyError(
            "with this epsilon an evaluation would be only noise",
            where="[evaluation] epsilon_share, rounds",
            found=f"epsilon {share:g} for {evaluations} evaluations",
            remedy="evaluate in fewer rounds, or give evaluation a larger share",
        )
    return noise


def _most_steps(target: float, delta: float, rate: float, noise: float, steps: int) -> int:
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        if exceeds(rate, noise, middle, delta, target * (1 - SAME)):
            high = middle
        else:
            low = middle
    return low
