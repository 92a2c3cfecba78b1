from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.cohort import Patient
from client.training.evaluation import outputs_of
from common.figures.metrics import ROC_POINTS
from common.files import sha256
from common.models.networks import initial_weights
from common.numerics import EngineChoice
from common.study.study_file import Study
from simulations.reports.result import Outcome
from simulations.runs.testset import Mapped, TestSet, curve_point, outcome, scored

PATIENTS = 300


def study(classes: int = 2) -> Study:
    return Study.model_validate(
        {
            "study": {"name": "noise", "title": "Noise"},
            "task": {"classes": [f"class {number}" for number in range(classes)]},
            "data": {"dataset": "noise", "modalities": ["DX"], "image_size": [4, 4]},
            "model": {"name": "cnn", "widths": [2], "hidden": 0},
            "training": {"rounds": 2, "batch_size": 20, "learning_rate": 0.5},
            "privacy": {"mode": "none"},
        }
    )


@pytest.fixture
def noise(tmp_path: Path) -> TestSet:
    """Pictures of noise, every third patient with two of them."""
    array = np.memmap(tmp_path / "noise", np.float16, "w+", shape=(2 * PATIENTS, 1, 4, 4))
    array[:] = np.random.default_rng(0).uniform(0, 1, array.shape)
    patients = tuple(
        Patient(
            f"{number}", number % 2, (number, PATIENTS + number)[: 1 + (number % 3 == 0)], "0" * 64
        )
        for number in range(PATIENTS)
    )
    return TestSet(Mapped.of(array), patients)


@pytest.fixture
def weights() -> NDArray[np.float32]:
    return initial_weights(study(), 0)


@pytest.fixture
def measured(noise: TestSet, weights: NDArray[np.float32]) -> Outcome:
    return outcome("shared", study(), weights, noise, epsilon=8.0)


def test_images_are_opened_elsewhere_as_they_were_mapped(noise: TestSet) -> None:
    again = noise.images.open()

    assert again.shape == (2 * PATIENTS, 1, 4, 4)
    assert not again.flags.writeable


def test_a_patient_has_one_vote(measured: Outcome) -> None:
    assert measured.metrics.patients == PATIENTS


def test_the_hash_is_that_of_little_endian_floats(
    measured: Outcome, weights: NDArray[np.float32]
) -> None:
    assert measured.weights_sha256 == sha256(weights.tobytes())


def test_auc_and_accuracy_are_those_of_the_scores(
    measured: Outcome, noise: TestSet, weights: NDArray[np.float32]
) -> None:
    found = outputs_of(
        study(), weights, noise.images.open(), noise.patients, choice=EngineChoice(tile=16)
    )
    scores = np.stack([each.double().softmax(dim=1).mean(dim=0).numpy() for each, _ in found])
    labels = np.array([patient.label for patient in noise.patients])
    positive, negative = scores[labels == 1, 1], scores[labels == 0, 1]
    wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    right = float(np.mean((scores[:, 1] >= 0.5) == labels))
    point = curve_point(study(), weights, noise, 7)

    assert measured.metrics.main is measured.metrics.figures["auc"]
    assert measured.metrics.main.value == pytest.approx(wins)
    assert measured.metrics.figures["accuracy"].value == pytest.approx(right)
    assert (point.round, point.value) == (7, measured.metrics.main.value)


def test_a_roc_curve_goes_from_corner_to_corner_and_never_falls(measured: Outcome) -> None:
    (roc,) = measured.series["roc"]
    false, true = np.array(roc.points).T

    assert roc.label == "class 1"
    assert len(roc.points) <= ROC_POINTS
    assert roc.points[0] == (0.0, 0.0)
    assert roc.points[-1] == (1.0, 1.0)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    assert np.trapezoid(true, false) == pytest.approx(measured.metrics.main.value, abs=0.01)


def test_calibration_lies_within_its_intervals(measured: Outcome) -> None:
    (line,) = measured.series["calibration"]
    assert line.label == "class 1"
    assert len(line.points) == len(line.ends) > 0
    for (score, observed), (low, high) in zip(line.points, line.ends, strict=True):
        assert 0 <= score <= 1
        assert low <= observed <= high


def test_more_than_two_classes_have_a_curve_each_and_no_calibration(noise: TestSet) -> None:
    three = study(3)
    patients = tuple(
        Patient(each.pseudonym, number % 3, each.images, "0" * 64)
        for number, each in enumerate(noise.patients)
    )
    found = outcome(
        "shared", three, initial_weights(three, 0), TestSet(noise.images, patients), epsilon=None
    )

    assert [roc.label for roc in found.series["roc"]] == ["class 0", "class 1", "class 2"]
    assert "calibration" not in found.series
    assert found.metrics.figures["calibration_error"].value is None
    assert found.metrics.main.value == pytest.approx(0.5, abs=0.1)


def test_all_images_of_a_test_patient_are_looked_at_however_many_a_site_looks_at(
    noise: TestSet, weights: NDArray[np.float32]
) -> None:
    one = study().model_copy(
        update={"evaluation": study().evaluation.model_copy(update={"images_per_patient": 1})}
    )
    found = [len(outputs) for outputs, _ in scored(one, weights, noise)]
    assert found == [len(patient.images) for patient in noise.patients]
    assert max(found) == 2
