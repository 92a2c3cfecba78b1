"""Rounds of a linear probe on features: the same sums as of the whole network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.data.cohort import Patient
from client.training import tuning
from client.training.evaluation import counted
from client.training.features import (
    Stem,
    bytes_beside,
    in_rounds,
    least_needed,
    require_ready,
    time_of,
)
from client.training.footprint import COPIES
from client.training.local import local_change, require_probed
from client.training.rehearsal import mechanism_of
from client.training.sampling import RoundStreams
from common.models.networks import initial_weights, split
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism
from common.study.study_file import Study
from tests.common.studies import small_study

ALL = NoMechanism(sampling_rate=1.0, divisor=1.0)
CHOICE = EngineChoice(tile=4)
MEMORY = 2**30
IMAGES = np.random.default_rng(1).random((12, 1, 8, 8), dtype=np.float32).astype(np.float16)
PATIENTS = tuple(
    Patient(f"{number:064x}", number % 2, tuple(range(2 * number, 2 * number + 2)), f"{number}")
    for number in range(6)
)


def head_alone(**sections: dict[str, Any]) -> Study:
    return small_study(model={"widths": [4], "trainable": ["head"]}, **sections)


def test_features_of_an_image_do_not_depend_on_the_images_beside() -> None:
    study = head_alone()
    stem = Stem(study, split(study, initial_weights(study, 0))[1], CHOICE)
    together = stem.of(IMAGES, tuple(range(12)))
    assert together.shape == (12, in_rounds(study).data.channels, 1, 1)
    for row in range(12):
        assert np.array_equal(stem.of(IMAGES, (row,))[0], together[row])
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("method", ["rounds", "one-shot"])
def test_a_round_on_features_changes_the_head_as_a_round_of_the_whole_network(method: str) -> None:
    settings = {"rounds": None, "local_steps": None, "learning_rate": None}
    training = {"method": method} | (settings if method == "one-shot" else {})
    aggregation = {"strategy": None, "average_decay": None} if method == "one-shot" else {}
    sections: dict[str, Any] = {"training": training, "aggregation": aggregation}
    model = {"widths": [4], "trainable": ["head"], "projection": 3}
    study = small_study(model=model, **sections)
    whole = initial_weights(study, 0)
    trained, frozen = split(study, whole)
    stem = Stem(study, frozen, CHOICE)
    features = np.concatenate([stem.of(IMAGES, each.images) for each in PATIENTS])
    streams = RoundStreams(bytes(32))
    on_images = local_change(
        require_probed(study, ALL, CHOICE),
        whole,
        IMAGES,
        PATIENTS,
        round_number=1,
        streams=streams,
    )
    probe = require_ready(study, ALL, CHOICE)
    assert probe.study is not study
    on_features = local_change(probe, trained, features, PATIENTS, round_number=1, streams=streams)
    assert np.abs(on_images).max() > 0.01
    np.testing.assert_allclose(on_features, on_images, rtol=1e-4, atol=1e-6)
    assert np.array_equal(
        counted(probe.study, trained, features, PATIENTS, choice=CHOICE),
        counted(study, whole, IMAGES, PATIENTS, choice=CHOICE),
    )


def test_where_each_step_sees_other_images_the_whole_network_is_computed() -> None:
    study = head_alone(training={"augmentation": {"flip": True}})
    assert in_rounds(study) is study
    assert bytes_beside(study) == 0
    plain = small_study()
    assert in_rounds(plain) is plain


def test_memory_is_that_of_one_image_through_the_network_or_of_a_step_of_the_head() -> None:
    study = small_study(
        model={"name": "resnet18", "trainable": ["head"]}, data={"image_size": [64, 64]}
    )
    weights = 4 * initial_weights(study, 0).size
    probe = tuning.least_needed(in_rounds(study), MEMORY)
    found = least_needed(study, MEMORY)
    assert COPIES * weights < found < tuning.least_needed(study, MEMORY)
    assert probe < found
    assert bytes_beside(study) == 4 * 512


def test_features_are_given_time_by_the_number_of_patients_that_there_may_be() -> None:
    study = head_alone()
    assert time_of(study, CHOICE, 10**6) > 100 * time_of(study, CHOICE, 10**3) > 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("private", [True, False])
def test_features_that_no_number_holds_change_nothing_of_another_patient(
    value: float, private: bool
) -> None:
    """A coordinator chooses the frozen weights, so it can make an image's features overflow."""
    study = head_alone()
    trained, frozen = split(study, initial_weights(study, 0))
    stem = Stem(study, frozen, CHOICE)
    features = np.concatenate([stem.of(IMAGES, each.images) for each in PATIENTS])
    one_step = study.training.model_copy(update={"local_steps": 1})
    study = study.model_copy(update={"training": one_step})
    mechanism = mechanism_of(study, 1.0) if private else ALL
    probe = require_ready(study, mechanism, CHOICE)

    def change(patients: tuple[Patient, ...], given: np.ndarray) -> np.ndarray:
        streams = RoundStreams(bytes(32))
        return local_change(probe, trained, given, patients, round_number=1, streams=streams)

    spoilt = features.copy()
    spoilt[2:4] = value  # the second patient's
    found, others = change(PATIENTS, spoilt), change((PATIENTS[0], *PATIENTS[2:]), features)
    assert np.isfinite(found).all()
    moved = np.abs(found - others).max()
    if private:
        assert moved <= study.training.learning_rate * 1.01  # no more than one clipped patient
    if not np.isfinite(value):
        assert moved < 1e-6
