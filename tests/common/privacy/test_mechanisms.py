"""Mechanisms: what follows from public numbers, and plans that say less than they cost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import PrivacyError
from common.privacy.accounting import SampledGaussian, calibrate, epsilon
from common.privacy.cap import composed, least_cap
from common.privacy.mechanisms import GAMMA, NoMechanism, PatientMechanism, mechanism, understated
from common.study.study_file import Study
from tests.common.studies import small_study

DELTA = 1e-5
DECLARED = 20
MOST = 40


def event(rate: float, noise: float, count: int = 1) -> SampledGaussian:
    return SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=count)


@pytest.fixture(scope="module")
def study() -> Study:
    return small_study()


@pytest.fixture(scope="module")
def calibrated(study: Study) -> PatientMechanism:
    found = mechanism(study, DECLARED, MOST)
    assert isinstance(found, PatientMechanism)
    return found


def test_it_follows_from_public_numbers(calibrated: PatientMechanism) -> None:
    """Batches of 5 of 20 declared; three rounds of two steps; one evaluation, half of epsilon."""
    assert calibrated.step.sampling_rate == 0.25
    assert calibrated.divisor == 5.0
    assert calibrated.clip_norm == 1.0
    assert calibrated.delta == DELTA
    assert calibrated.most_sampled == least_cap(MOST, 0.25, 6, 8.0, DELTA)
    assert calibrated.step.noise_multiplier == calibrate(8.0, composed(DELTA), 0.25, 6)
    assert calibrated.evaluation is not None
    assert calibrated.evaluation.sampling_rate == 1.0
    assert (
        calibrated.cell_noise
        == calibrated.evaluation.noise_multiplier
        == calibrate(4.0, DELTA, 1.0, 1)
    )


def test_the_noise_covers_what_arithmetic_adds_to_a_clipped_norm(
    calibrated: PatientMechanism,
) -> None:
    """The accounted multiplier is the deviation over the true sensitivity, C (1 + gamma)."""
    halved = calibrated.model_copy(update={"clip_norm": 0.5})
    sensitivity = 0.5 * (1 + GAMMA)
    assert halved.noise_deviation / sensitivity == pytest.approx(calibrated.step.noise_multiplier)


def test_training_and_evaluation_compose_in_parallel(calibrated: PatientMechanism) -> None:
    """No patient stands in both, so the study costs the larger of the two."""
    assert 7.9 < calibrated.epsilon_training < 8.0
    assert 3.9 < calibrated.epsilon_evaluation < 4.0
    assert calibrated.epsilon == calibrated.epsilon_training
    dear = calibrated.model_copy(update={"epsilon_evaluation": 9.0})
    assert dear.epsilon == 9.0


def test_more_evaluations_share_one_share() -> None:
    thrice = mechanism(small_study(evaluation={"rounds": [1, 2, 3]}), DECLARED, MOST)
    assert isinstance(thrice, PatientMechanism)
    assert thrice.evaluation is not None
    assert 3.9 < epsilon(((thrice.evaluation, 3),), DELTA) < 4.0


def test_three_classes_have_three_planes_of_noise() -> None:
    """A patient counts once in each plane: the L2 sensitivity is the square root of three."""
    found = mechanism(small_study(task={"classes": ["a", "b", "c"]}), DECLARED, MOST)
    assert isinstance(found, PatientMechanism)
    assert found.evaluation is not None
    assert found.cell_noise == found.evaluation.noise_multiplier * math.sqrt(3)


def test_without_evaluation_there_is_none_and_it_costs_nothing() -> None:
    found = mechanism(small_study(evaluation={"rounds": "none"}), DECLARED, MOST)
    assert isinstance(found, PatientMechanism)
    assert found.evaluation is None
    assert (found.cell_noise, found.epsilon_evaluation) == (0.0, 0.0)


def test_a_batch_larger_than_the_site_takes_every_patient() -> None:
    found = mechanism(small_study(privacy={"mode": "none"}), 3, 6)
    assert found == NoMechanism(sampling_rate=1.0, divisor=3.0)


def test_no_privacy_is_a_mechanism_of_its_own_that_costs_everything() -> None:
    found = mechanism(small_study(privacy={"mode": "none"}), DECLARED, MOST)
    assert found == NoMechanism(sampling_rate=0.25, divisor=5.0)
    assert math.isinf(found.epsilon)


UNREACHABLE: list[dict[str, Any]] = [
    {"training": {"rounds": 40, "local_steps": 50, "batch_size": 100}, "privacy": {"epsilon": 0.5}},
    {
        "training": {"rounds": 3, "local_steps": 2000, "batch_size": 100},
        "privacy": {"epsilon": 0.05},
    },
]


@pytest.mark.parametrize("sections", UNREACHABLE, ids=["in many rounds", "in one round"])
def test_what_an_unreachable_epsilon_is_advised_to_become_is_reached(
    sections: dict[str, dict[str, Any]],
) -> None:
    free = {"evaluation": {"rounds": "none"}}
    with pytest.raises(PrivacyError, match="cannot be reached") as caught:
        mechanism(small_study(**sections, **free), 100, 200)
    advice = caught.value.details["do"]
    allowed = re.search(r"allow epsilon ([\d.]+)", advice)
    fewer = re.search(r"at most (\d+) rounds? of (\d+) steps", advice)
    assert allowed
    assert fewer
    mechanism(
        small_study(**{**sections, "privacy": {"epsilon": float(allowed[1])}}, **free), 100, 200
    )
    rounds = {"rounds": int(fewer[1]), "local_steps": int(fewer[2])}
    training = sections["training"] | rounds
    mechanism(small_study(**{**sections, "training": training}, **free), 100, 200)


def test_an_epsilon_that_no_number_of_rounds_reaches_names_none() -> None:
    with pytest.raises(PrivacyError) as caught:
        mechanism(
            small_study(privacy={"epsilon": 0.001}, training={"batch_size": DECLARED}),
            DECLARED,
            MOST,
        )
    assert "round" not in caught.value.details["do"]


def test_evaluations_that_would_be_nothing_but_noise_are_refused() -> None:
    with pytest.raises(PrivacyError, match="an evaluation would be only noise") as caught:
        mechanism(small_study(evaluation={"epsilon_share": 1e-4}), DECLARED, MOST)
    assert "epsilon_share" in caught.value.details["where"]


def test_the_calibrated_mechanism_is_not_understated(
    study: Study, calibrated: PatientMechanism
) -> None:
    assert understated(calibrated, study, DECLARED, MOST) is None


def test_more_noise_than_needed_is_welcome(study: Study, calibrated: PatientMechanism) -> None:
    louder = event(0.25, 2 * calibrated.step.noise_multiplier)
    assert (
        understated(calibrated.model_copy(update={"step": louder}), study, DECLARED, MOST) is None
    )


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (lambda it: {"step": event(0.2, it.step.noise_multiplier)}, "sampling_rate"),
        (lambda it: {"step": event(0.25, it.step.noise_multiplier, 2)}, "count"),
        (lambda it: {"step": event(0.25, 0.99 * it.step.noise_multiplier)}, "epsilon_training"),
        (
            lambda _: {  # enough noise for the whole of delta, of which the cap takes a tenth
                "step": event(0.25, calibrate(8.0, DELTA, 0.25, 6)),
                "epsilon_training": 8.0,
            },
            "epsilon_training",
        ),
        (lambda it: {"step": event(0.25, 1e-9)}, "epsilon_training"),
        (lambda it: {"evaluation": None, "cell_noise": 0.0}, "evaluation"),
        (lambda it: {"evaluation": event(0.5, it.evaluation.noise_multiplier)}, "evaluation"),
        (lambda it: {"evaluation": event(1.0, it.evaluation.noise_multiplier, 2)}, "count"),
        (lambda it: {"evaluation": event(1.0, 0.5), "cell_noise": 0.5}, "epsilon_evaluation"),
        (lambda it: {"evaluation": event(1.0, 9.0)}, "cell_noise"),
        (lambda it: {"cell_noise": 0.0}, "cell_noise"),
        (lambda it: {"most_sampled": it.most_sampled - 1}, "most_sampled"),
        (lambda it: {"most_sampled": it.most_sampled + 1}, "most_sampled"),
        (lambda it: {"clip_norm": 2.0}, "clip_norm"),
        (lambda it: {"divisor": 6.0}, "divisor"),
        (lambda it: {"delta": 1e-4}, "delta"),
        (lambda it: {"epsilon_training": 7.0}, "epsilon_training"),
        (lambda it: {"epsilon_evaluation": 3.0}, "epsilon_evaluation"),
    ],
)
def test_each_number_that_was_tampered_with_is_named(
    study: Study,
    calibrated: PatientMechanism,
    tamper: Callable[[Any], dict[str, Any]],
    fault: str,
) -> None:
    proposed = calibrated.model_copy(update=tamper(calibrated))
    assert understated(proposed, study, DECLARED, MOST) == fault


def test_privacy_is_not_turned_off_by_a_plan(study: Study, calibrated: PatientMechanism) -> None:
    none = NoMechanism(sampling_rate=0.25, divisor=5.0)
    free = small_study(privacy={"mode": "none"})
    assert understated(none, study, DECLARED, MOST) == "mode"
    assert understated(calibrated, free, DECLARED, MOST) == "mode"
    assert understated(none, free, DECLARED, MOST) is None
    assert understated(none.model_copy(update={"divisor": 4.0}), free, DECLARED, MOST) == "mode"


def test_a_plan_for_another_number_of_patients_is_found_out(
    study: Study, calibrated: PatientMechanism
) -> None:
    assert understated(calibrated, study, DECLARED - 1, MOST) == "sampling_rate"


def test_the_noise_is_a_thousandth_more_than_multiplier_times_clip_norm() -> None:
    """By hand: 2 x 3 x 1.001. The thousandth is what docs/privacy.md argues for."""
    assert GAMMA == 1e-3
    made = made_of(step=event(0.25, 2.0), clip_norm=3.0)
    assert made.noise_deviation == pytest.approx(6.006, rel=1e-12)


SOUND: dict[str, Any] = {
    "step": event(0.25, 2.0),
    "evaluation": None,
    "most_sampled": 10**6,
    "clip_norm": 0.5,
    "divisor": 0.5,
    "cell_noise": 0.0,
    "epsilon_training": 0.0,
    "epsilon_evaluation": 0.0,
    "delta": 0.5,
}


def made_of(**changes: Any) -> PatientMechanism:  # noqa: ANN401 - any field
    return PatientMechanism(**(SOUND | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("clip_norm", value) for value in (0.0, -0.5)),
        *(("divisor", value) for value in (0.0, -0.5)),
        *((name, -0.5) for name in ("cell_noise", "epsilon_training", "epsilon_evaluation")),
        *(("delta", value) for value in (0.0, -0.5, 1.0, 1.5)),
    ],
)
def test_a_mechanism_without_meaning_cannot_be_made(field: str, value: float) -> None:
    assert made_of().epsilon == 0.0, "the rest of it is sound"
    with pytest.raises(ValidationError, match=field):
        made_of(**{field: value})


@pytest.mark.parametrize("numbers", [(0.0, 1.0), (-0.5, 1.0), (1.5, 1.0), (0.5, 0.0), (0.5, -0.5)])
def test_no_mechanism_without_meaning_can_be_made_either(numbers: tuple[float, float]) -> None:
    rate, divisor = numbers
    assert NoMechanism(sampling_rate=1.0, divisor=0.5).epsilon == math.inf
    with pytest.raises(ValidationError):
        NoMechanism(sampling_rate=rate, divisor=divisor)


def test_an_epsilon_may_be_understated_by_no_more_than_arithmetic_differs(
    study: Study, calibrated: PatientMechanism
) -> None:
    """Another machine's last digits are forgiven, a thousand times as much is not."""
    exact = calibrated.epsilon_training
    for stated, fault in (
        (exact * (1 + 1e-3), None),
        (exact * (1 - 0.5e-6), None),
        (exact * (1 - 1e-3), "epsilon_training"),
    ):
        told = calibrated.model_copy(update={"epsilon_training": stated})
        assert understated(told, study, DECLARED, MOST) == fault


def test_a_batch_as_large_as_the_site_or_larger_is_not_understated() -> None:
    for size in (DECLARED, 3 * DECLARED):
        study = small_study(training={"batch_size": size})
        whole = mechanism(study, DECLARED, MOST)
        assert isinstance(whole, PatientMechanism)
        assert (whole.step.sampling_rate, whole.divisor) == (1.0, float(DECLARED))
        assert understated(whole, study, DECLARED, MOST) is None


def test_without_evaluation_nothing_is_understated_and_noise_for_none_is_found_out() -> None:
    study = small_study(evaluation={"rounds": []})
    made = mechanism(study, DECLARED, MOST)
    assert isinstance(made, PatientMechanism)
    assert (made.cell_noise, made.epsilon_evaluation) == (0.0, 0.0)
    assert understated(made, study, DECLARED, MOST) is None
    for extra, fault in (
        ({"cell_noise": 1.0}, "cell_noise"),
        ({"evaluation": event(1.0, 9.0)}, "evaluation"),
    ):
        assert understated(made.model_copy(update=extra), study, DECLARED, MOST) == fault
