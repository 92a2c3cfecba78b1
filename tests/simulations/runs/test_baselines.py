"""Two hospitals of flat pictures, and a model so small that a step can be done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.data.cohort import Patient
from client.training.evaluation import outputs_of
from common import numerics
from common.models.networks import build_model, flatten, initial_weights, load_flat
from common.numerics import EngineChoice
from common.study.study_file import Study
from simulations.reports.result import Outcome
from simulations.runs.baselines import (
    Baseline,
    Holding,
    plan_baselines,
    run_baseline,
    run_baselines,
)
from simulations.runs.testset import Mapped, TestSet

Section = dict[str, object]
PRIVATE: Section = {"mode": "patient", "epsilon": 8.0, "delta": 1e-5}
OPEN: Section = {"mode": "none"}


def study(privacy: Section = OPEN, **changes: Section) -> Study:
    """One full-batch step a round for 20 declared patients."""
    sections: dict[str, Section] = {
        "study": {"name": "flat", "title": "Flat pictures"},
        "task": {"classes": ["dark", "bright"]},
        "data": {"dataset": "flat", "modalities": ["DX"], "image_size": [4, 4]},
        "model": {"name": "cnn", "widths": [2], "pooling": "average", "hidden": 0},
        "training": {"rounds": 2, "batch_size": 20, "learning_rate": 0.5},
        "privacy": privacy,
        "aggregation": {"strategy": "fedavg", "average_decay": 0.0},
    }
    for name, section in changes.items():
        sections[name] = sections.get(name, {}) | section
    return Study.model_validate(sections)


@pytest.fixture
def holdings(tmp_path: Path) -> tuple[Holding, ...]:
    return tuple(holding(tmp_path / name, name, 20) for name in ("east", "west"))


def holding(path: Path, name: str, declared: int) -> Holding:
    """Twenty patients with one picture each, dark and bright in turn."""
    generator = np.random.default_rng(len(name) + ord(name[0]))
    pictures = generator.uniform(0, 0.4, (20, 1, 4, 4)).astype(np.float16)
    pictures[1::2] += np.float16(0.5)
    patients = tuple(Patient(f"{name}{row}", row % 2, (row,), "0" * 64) for row in range(20))
    return Holding(
        name,
        declared,
        2 * declared,
        mapped(path, pictures),
        patients,
        numerics.record(1, EngineChoice()),
    )


def mapped(path: Path, pictures: NDArray[np.float16]) -> Mapped:
    array = np.memmap(path, np.float16, "w+", shape=pictures.shape)
    array[:] = pictures
    array.flush()
    return Mapped.of(array)


@pytest.fixture
def test_set(holdings: tuple[Holding, ...]) -> TestSet:
    return TestSet(holdings[0].images, holdings[0].patients)


def test_a_private_study_has_each_hospital_twice_and_all_pooled(
    holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    planned = plan_baselines(study(PRIVATE), holdings, seed=0, test=test_set)

    assert [each.name for each in planned] == [
        "alone-private-east",
        "alone-private-west",
        "alone-east",
        "alone-west",
        "pooled",
    ]
    modes = [each.study.privacy.mode for each in planned]
    assert modes == ["patient", "patient", "none", "none", "none"]


def test_a_study_without_privacy_has_each_hospital_once(
    holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    planned = plan_baselines(study(), holdings, seed=0, test=test_set)

    assert [each.name for each in planned] == ["alone-east", "alone-west", "pooled"]


def test_schedule_and_steps_are_the_studys_and_pooled_batches_are_all_hospitals_together(
    holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    whole = study(training={"batch_size": 32, "local_steps": 3})
    planned = plan_baselines(whole, holdings, seed=0, test=test_set, rate=2.0)

    for each in planned:
        assert each.study.training.rounds == whole.training.rounds
        assert each.study.training.local_steps == 3
        assert each.study.training.learning_rate == 1.0
    assert planned[0].study.training.batch_size == 32
    assert planned[-1].study.training.batch_size == 20 + 20


def test_a_median_of_one_is_that_one(holdings: tuple[Holding, ...], test_set: TestSet) -> None:
    whole = study(aggregation={"strategy": "fedmedian", "average_decay": 0.5})
    alone = plan_baselines(whole, holdings, seed=0, test=test_set)[0].study.aggregation

    assert (alone.strategy, alone.average_decay) == ("fedavg", 0.5)


def trained(baseline: Baseline) -> NDArray[np.float32]:
    """Full-batch gradient descent by torch itself, a step for each round."""
    model = build_model(baseline.study)
    load_flat(model, initial_weights(baseline.study, baseline.seed))
    pictures = np.concatenate([each.images.open() for each in baseline.holdings])
    labels = [patient.label for each in baseline.holdings for patient in each.patients]
    pixels = (torch.from_numpy(pictures.astype(np.float32)) - 0.5) / 0.25
    for _ in range(baseline.study.training.rounds):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), torch.tensor(labels)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(baseline.study.training.learning_rate * parameter.grad)
    return flatten(model)


@pytest.mark.parametrize("index", [0, 2])
def test_with_every_patient_in_every_batch_it_is_gradient_descent(
    index: int, holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    """For one hospital alone, and for both pooled: rows of the second follow the first's."""
    baseline = plan_baselines(study(), holdings, seed=0, test=test_set)[index]
    each = outputs_of(
        baseline.study,
        trained(baseline),
        test_set.images.open(),
        test_set.patients,
        choice=EngineChoice(tile=16),
    )
    scores = np.stack([one.double().softmax(dim=1).mean(dim=0).numpy() for one, _ in each])
    labels = np.array([patient.label for patient in test_set.patients])
    found = run_baseline(baseline)

    assert found.kind == baseline.kind
    accuracy = float(np.mean((scores[:, 1] >= 0.5) == labels))
    assert found.metrics.figures["accuracy"].value == pytest.approx(accuracy)
    ranks = np.mean([a > b for a in scores[labels == 1, 1] for b in scores[labels == 0, 1]])
    assert found.metrics.main.value == pytest.approx(ranks)
    assert found.curve[-1].value == found.metrics.main.value


def test_a_private_baseline_costs_what_the_study_costs_and_an_open_one_has_no_bound(
    holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    planned = plan_baselines(study(PRIVATE), holdings, seed=0, test=test_set)
    private, open_ = run_baseline(planned[0]), run_baseline(planned[2])

    assert private.epsilon is not None
    assert 7.9 < private.epsilon <= 8.0
    assert open_.epsilon is None


def test_training_that_diverges_is_said_to_and_the_others_go_on(
    holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    wild = plan_baselines(
        study(training={"rounds": 30}), holdings, seed=0, test=test_set, rate=1e40
    )
    found = run_baseline(wild[0])

    assert found.note is not None
    assert "diverged in round" in found.note


def test_outcomes_come_in_the_order_of_the_baselines_and_are_told_as_they_come(
    holdings: tuple[Holding, ...], test_set: TestSet
) -> None:
    planned = plan_baselines(study(), holdings, seed=0, test=test_set)
    told: list[Outcome] = []
    found = run_baselines(planned, processes=1, done=told.append)

    assert list(found) == told
    assert [outcome.site for outcome in found] == ["east", "west", None]
    # In processes of their own the longest begins first, and is not told first for that.
    assert run_baselines(planned, processes=2, done=told.append) == found
    assert told == [*found, *found]
