"""A whole study that begins with public weights and trains a part of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from common.checkpoint import newest
from common.models.initial import written
from common.models.networks import split, trained_count, weights_count
from common.package.package import read
from common.study.study_file import load_study
from server.app import CHECKPOINTS, FOLDER
from server.study import round_zero
from server.study.rounds import evaluated_weights
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.integration.conftest import study_text, write_hospitals

KERNELS = np.linspace(-0.5, 0.5, 4 * 9, dtype=np.float32).reshape(4, 1, 3, 3)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    folder = tmp_path_factory.mktemp("parts")
    model = {"name": "cnn", "widths": [4], "initial": "kernels.safetensors"}
    text = study_text(model=model | {"trainable": ["head"], "adapters": 1})
    (folder / "study.toml").write_text(text)
    (folder / "kernels.safetensors").write_bytes(
        written({"0.weight": KERNELS}, source="here", licence="CC0-1.0", trained_on="nothing")
    )
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


def final(folder: Path) -> np.ndarray:
    return safetensors.numpy.load_file(folder / "final.safetensors")["weights"]


def test_what_is_handed_out_has_the_public_weights_as_they_were_and_the_trained_ones_changed(
    settings: RunSettings,
) -> None:
    study, folder = load_study(settings.study), settings.run / FOLDER
    weights = final(folder)
    assert weights.size == weights_count(study)
    assert np.array_equal(weights[: KERNELS.size], KERNELS.ravel())
    state = newest(folder / CHECKPOINTS)
    assert state is not None
    trained, frozen = split(study, weights)
    assert np.array_equal(trained, evaluated_weights(study, state))
    assert state.frozen is not None
    assert np.array_equal(frozen, state.frozen)
    assert np.abs(trained).sum() > 0
    package = read(settings.run / "model.consilium")
    assert np.array_equal(package.weights, weights)
    assert package.earlier.shape[1] == weights.size


def test_plans_name_what_is_trained_and_the_hash_of_the_rest(settings: RunSettings) -> None:
    study = load_study(settings.study)
    plans = round_zero.stored(settings.run / FOLDER, study, settings.seed)
    assert plans
    assert {plan.weights for plan in plans.values()} == {trained_count(study)}
    assert len({plan.frozen for plan in plans.values()}) == 1
    named = study.model.initial
    assert named is not None
    assert named.source == "here"


def test_the_same_run_ends_in_the_same_bits(settings: RunSettings, tmp_path: Path) -> None:
    again = replace(settings, run=tmp_path / "again", like=settings.run, baselines=False)
    run_study(again)
    assert np.array_equal(final(tmp_path / "again" / FOLDER), final(settings.run / FOLDER))
