"""A patient has one vote, and only a noised histogram leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from client.data.cohort import Patient
from client.training.evaluation import counted, outputs_of, release
from common.errors import Refusal, RefusalCode
from common.figures.histogram import histogram
from common.models.networks import build_model, initial_weights, load_flat
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import Stream, derive
from common.study.study_file import Study
from common.tasks.classification import Classification
from tests.common.studies import small_study

DIGEST = "0" * 64
NONE = NoMechanism(sampling_rate=0.25, divisor=5.0)


def mechanism(cell_noise: float) -> PatientMechanism:
    event = SampledGaussian(sampling_rate=1.0, noise_multiplier=cell_noise, count=1)
    return PatientMechanism(
        step=event,
        evaluation=event,
        most_sampled=10**9,
        clip_norm=1.0,
        divisor=5.0,
        cell_noise=cell_noise,
        epsilon_training=1.0,
        epsilon_evaluation=1.0,
        delta=1e-5,
    )


def stream(seed: int = 0) -> Stream:
    return Stream(derive(b"evaluation", seed=seed))


@pytest.fixture(scope="module")
def study() -> Study:
    return small_study(data={"mean": 0.4, "std": 0.2})


@pytest.fixture(scope="module")
def images() -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    return np.random.default_rng(0).random((600, 1, 8, 8)).astype(np.float16)


def score(
    study: Study,
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    images: np.ndarray[tuple[int, ...], np.dtype[np.float16]],
    patients: tuple[Patient, ...],
    *,
    choice: EngineChoice,
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], list[int]]:
    """Each patient's vote and label."""
    found = [*outputs_of(study, weights, images, patients, choice=choice)]
    votes = [outputs.double().softmax(dim=1).mean(dim=0).tolist() for outputs, _ in found]
    assert all((targets == targets[0]).all() for _, targets in found)
    return np.array(votes), [int(targets[0]) for _, targets in found]


def probabilities(
    study: Study, image: np.ndarray[tuple[int, ...], np.dtype[np.float16]]
) -> list[float]:
    """Of one image by itself."""
    model = build_model(study)
    load_flat(model, initial_weights(study, 3))
    pixels = (torch.from_numpy(image.astype(np.float32))[None] - 0.4) / 0.2
    with torch.no_grad():
        found: list[float] = model(pixels).double().softmax(dim=1)[0].tolist()
    return found


def test_a_patients_vote_is_the_mean_over_the_images(
    study: Study, images: np.ndarray[tuple[int, ...], np.dtype[np.float16]]
) -> None:
    patients = (
        Patient("a", 1, (4,), DIGEST),
        Patient("b", 0, (2, 9, 5), DIGEST),
        Patient("c", 1, (9, 9), DIGEST),
    )
    scores, labels = score(
        study, initial_weights(study, 3), images, patients, choice=EngineChoice(tile=16)
    )
    by_hand = [
        np.mean([probabilities(study, images[row]) for row in patient.images], axis=0)
        for patient in patients
    ]
    assert scores == pytest.approx(np.array(by_hand), abs=1e-6)
    assert labels == [1, 0, 1]


@pytest.mark.parametrize("most", [1, 2, 4])
def test_so_many_images_of_a_patient_are_scored_and_no_more(
    images: np.ndarray[tuple[int, ...], np.dtype[np.float16]], most: int
) -> None:
    """The first in the patient's own order, whatever stands behind them."""
    study = small_study(
        data={"mean": 0.4, "std": 0.2}, evaluation={"images_per_patient": most, "rounds": "last"}
    )
    rows = (17, 3, 250, 40, 41, 42, 599)
    whole = (Patient("a", 1, rows, DIGEST), Patient("b", 0, (5,), DIGEST))
    first = (Patient("a", 1, rows[:most], DIGEST), Patient("b", 0, (5,), DIGEST))
    weights, choice = initial_weights(study, 3), EngineChoice(tile=16)
    found, _ = score(study, weights, images, whole, choice=choice)
    wanted, _ = score(study, weights, images, first, choice=choice)
    assert found.tobytes() == wanted.tobytes()
    by_hand = np.mean([probabilities(study, images[row]) for row in rows[:most]], axis=0)
    assert found[0] == pytest.approx(by_hand, abs=1e-6)


def test_what_is_left_out_of_a_study_scores_four_images_of_a_patient(study: Study) -> None:
    assert study.evaluation.images_per_patient == 4


def test_several_images_are_scored_in_pieces(
    images: np.ndarray[tuple[int, ...], np.dtype[np.float16]],
) -> None:
    study = small_study(
        data={"mean": 0.4, "std": 0.2}, evaluation={"images_per_patient": 64, "rounds": "last"}
    )
    many = (
        Patient("a", 0, tuple(range(40)), DIGEST),
        Patient("b", 1, tuple(range(40, 600)), DIGEST),
    )
    weights = initial_weights(study, 3)
    singles = tuple(Patient(str(row), 0, (row,), DIGEST) for row in range(600))
    each, _ = score(study, weights, images, singles, choice=EngineChoice(tile=16))
    scores, _ = score(study, weights, images, many, choice=EngineChoice(tile=16))
    assert scores[0] == pytest.approx(each[:40].mean(axis=0), abs=1e-6)
    assert scores[1] == pytest.approx(each[40:104].mean(axis=0), abs=1e-6)


@pytest.mark.parametrize("tile", [1, 16, 64])
def test_a_vote_is_the_same_bits_whoever_else_is_scored(
    study: Study, images: np.ndarray[tuple[int, ...], np.dtype[np.float16]], tile: int
) -> None:
    weights = initial_weights(study, 3)
    many = tuple(Patient(str(row), 0, (row, row + 1, row + 5), DIGEST) for row in range(40))
    together, _ = score(study, weights, images, many, choice=EngineChoice(tile=tile))
    for left_out in range(0, 40, 3):
        others = many[:left_out] + many[left_out + 1 :]
        alone, _ = score(study, weights, images, others, choice=EngineChoice(tile=tile))
        assert alone.tobytes() == np.delete(together, left_out, axis=0).tobytes()


def test_nobody_to_score_gives_no_votes(
    study: Study, images: np.ndarray[tuple[int, ...], np.dtype[np.float16]]
) -> None:
    weights, choice = initial_weights(study, 3), EngineChoice(tile=16)
    assert [*outputs_of(study, weights, images, (), choice=choice)] == []
    counts = counted(study, weights, images, (), choice=choice)
    assert counts.shape == (2, 1, 4)
    assert not counts.any()


def test_what_patients_mark_is_the_histogram_of_their_votes(
    study: Study, images: np.ndarray[tuple[int, ...], np.dtype[np.float16]]
) -> None:
    """Here patients have up to five images, and tiles end in the middle of a patient's."""
    weights, choice = initial_weights(study, 3), EngineChoice(tile=16)
    patients = tuple(
        Patient(str(at), at % 2, tuple(range(at, at + 1 + at % 5)), DIGEST) for at in range(50)
    )
    scores, labels = score(study, weights, images, patients, choice=choice)
    wanted = histogram(scores, np.array(labels), classes=2, bins=4)
    assert counted(study, weights, images, patients, choice=choice).tolist() == wanted.tolist()


@pytest.mark.parametrize("given", [ArithmeticError("no"), "no cells", 2**70])
def test_a_patient_whom_the_task_fails_on_counts_as_zero_and_the_others_as_ever(
    study: Study,
    images: np.ndarray[tuple[int, ...], np.dtype[np.float16]],
    monkeypatch: pytest.MonkeyPatch,
    given: object,
) -> None:
    weights, choice = initial_weights(study, 3), EngineChoice(tile=16)
    patients = tuple(Patient(str(row), row % 2, (row,), DIGEST) for row in range(40))
    (ill, _), *_ = outputs_of(study, weights, images, patients[7:8], choice=choice)
    wanted = counted(study, weights, images, patients[:7] + patients[8:], choice=choice)
    sound = Classification.marks

    def failing(task: Classification, outputs: Any, targets: Any, bins: int) -> Any:  # noqa: ANN401 - as the task's
        if not torch.equal(outputs, ill):
            return sound(task, outputs, targets, bins)
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(Classification, "marks", failing)
    assert counted(study, weights, images, patients, choice=choice).tolist() == wanted.tolist()
    assert wanted.sum() == 39


def test_scoring_twice_gives_the_same_bits(
    study: Study, images: np.ndarray[tuple[int, ...], np.dtype[np.float16]]
) -> None:
    patients = tuple(Patient(str(row), 0, (row, row + 1), DIGEST) for row in range(100))
    first, _ = score(
        study, initial_weights(study, 3), images, patients, choice=EngineChoice(tile=16)
    )
    second, _ = score(
        study, initial_weights(study, 3), images, patients, choice=EngineChoice(tile=16)
    )
    assert first.tobytes() == second.tobytes()


def test_without_privacy_the_exact_counts_are_released() -> None:
    counts = np.arange(8, dtype=np.int64).reshape(2, 1, 4)
    assert release(counts, NONE, stream()).tolist() == counts.tolist()


def test_noise_is_gaussian_of_the_planned_deviation_and_rounded() -> None:
    """Rounding adds a variance of 1/12."""
    counts = np.full((2, 1, 10_000), 50, dtype=np.int64)
    released = release(counts, mechanism(6.0), stream())
    noise = (released - counts).ravel()
    assert released.dtype == np.int64
    assert noise.std() == pytest.approx(np.sqrt(36 + 1 / 12), rel=0.02)
    assert abs(noise.mean()) < 0.15
    smoothed = noise + np.random.default_rng(1).uniform(-0.5, 0.5, noise.size)
    assert stats.kstest(smoothed, "norm", args=(0, np.sqrt(36 + 1 / 12))).pvalue > 0.01


def test_counts_below_zero_are_released_as_they_are() -> None:
    released = release(np.zeros((2, 1, 500), dtype=np.int64), mechanism(3.0), stream())
    assert (released < 0).mean() == pytest.approx(0.43, abs=0.05)


def test_the_same_stream_is_the_same_release() -> None:
    counts = np.zeros((2, 1, 50), dtype=np.int64)
    first = release(counts, mechanism(6.0), stream())
    assert release(counts, mechanism(6.0), stream()).tolist() == first.tolist()
    assert release(counts, mechanism(6.0), stream(1)).tolist() != first.tolist()


def test_a_private_plan_without_an_evaluation_releases_no_bare_counts() -> None:
    without = mechanism(6.0).model_copy(update={"evaluation": None, "cell_noise": 0.0})
    with pytest.raises(Refusal) as caught:
        release(np.zeros((2, 1, 4), dtype=np.int64), without, stream())
    assert caught.value.code is RefusalCode.WRONG_PLAN
