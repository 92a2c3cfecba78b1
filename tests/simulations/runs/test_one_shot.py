"""A whole study that is trained by one release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from common.checkpoint import newest
from common.models.networks import split
from common.study.study_file import load_study
from server.app import CHECKPOINTS, FOLDER
from simulations.reports.result import read_result
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.integration.conftest import STUDY, study_text, write_hospitals


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    folder = tmp_path_factory.mktemp("one-shot")
    text = study_text(
        model={**dict.fromkeys(STUDY["model"]), "name": "scattering", "projection": 6},
        training={"method": "one-shot", "rounds": 1, "local_steps": 1, "learning_rate": 1.0},
        aggregation={"strategy": "fedavg", "average_decay": 0.0},
    )
    (folder / "study.toml").write_text(text)
    write_hospitals(folder / "hospitals")
    settings = RunSettings(
        study=folder / "study.toml",
        hospitals=folder / "hospitals",
        run=folder / "run",
        baselines=True,
        threads=1,
        package=True,
        command="consilium-sim run study.toml",
    )
    run_study(settings)
    return settings


def weights(folder: Path) -> np.ndarray:
    return safetensors.numpy.load_file(folder / FOLDER / "final.safetensors")["weights"]


def test_it_ends_after_one_round_with_a_head_from_the_sum_and_the_rest_as_it_was(
    settings: RunSettings,
) -> None:
    study = load_study(settings.study)
    state = newest(settings.run / FOLDER / CHECKPOINTS)
    assert state is not None
    assert (state.round, len(state.rounds), len(state.evaluations)) == (1, 1, 1)
    trained, frozen = split(study, weights(settings.run))
    assert np.array_equal(trained, state.weights)
    assert state.frozen is not None
    assert np.array_equal(frozen, state.frozen)
    assert np.abs(trained).max() > 0
    # Of two classes one goes up where the other goes down: a discriminant's weights add up to none.
    rows = trained[:12].reshape(2, 6)
    shares = np.exp(trained[12:]) / np.exp(trained[12:]).sum()
    assert shares.shape == (2,)
    assert np.linalg.matrix_rank(rows.astype(np.float64), tol=1e-4) == 1


def test_the_result_names_what_was_trained_and_the_baselines_are_trained_alike(
    settings: RunSettings,
) -> None:
    result = read_result(settings.run)
    assert result.study.rounds == 1
    assert {each.kind for each in result.baselines} == {"pooled", "alone", "alone-private"}
    (pooled,) = (each for each in result.baselines if each.kind == "pooled")
    assert (pooled.metrics.figures["auc"].value or 0.0) > 0.6


def test_the_same_run_ends_in_the_same_bits(settings: RunSettings, tmp_path: Path) -> None:
    run_study(replace(settings, run=tmp_path / "again", like=settings.run, baselines=False))
    assert np.array_equal(weights(tmp_path / "again"), weights(settings.run))
