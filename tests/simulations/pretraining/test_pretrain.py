"""``consilium-sim pretrain``: public starting weights, from hospitals that need no privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from common.errors import ModelError
from common.models.initial import Arrays, arrays_of
from common.models.networks import seeded_model
from common.models.parts import Projected
from common.study.study_file import load_initial, load_study
from simulations.cli.app import app
from simulations.pretraining.whitening import whitening
from tests.integration.conftest import STUDY, study_text, write_hospitals

ABOUT = ("--source", "this project", "--licence", "CC0-1.0", "--trained-on", "bright squares")
WIDTH = 4


def test_a_whitened_projection_gives_numbers_that_are_uncorrelated_and_alike_in_spread() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4000, 9)) @ rng.normal(size=(9, 9)) + 5.0
    weights, bias = whitening(features, 4)
    assert weights.dtype == np.float32
    assert (weights.shape, bias.shape) == ((4, 9), (4,))
    found = features @ weights.T.astype(np.float64) + bias
    assert np.abs(found.mean(axis=0)).max() < 1e-3
    covariance = np.cov(found.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.01
    # The ridge leaves what varies less a little smaller, and nothing larger than 1.
    assert (np.diff(np.diag(covariance)) < 1e-6).all()
    assert 0.5 < np.diag(covariance).min() <= np.diag(covariance).max() < 1.0
    with pytest.raises(ModelError, match="projection = 9 or less"):
        whitening(features, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pretrained")
    write_hospitals(found / "hospitals")
    return found


def study_file(folder: Path, **model: Any) -> Path:  # noqa: ANN401 - as TOML gives
    path = folder / "study.toml"
    changes = {"model": STUDY["model"] | {"projection": WIDTH, "trainable": ["head"]} | model}
    path.write_text(study_text(**changes))
    return path


def made(folder: Path, *options: str, **model: Any) -> Arrays:  # noqa: ANN401 - as above
    path, out = study_file(folder, **model), folder / "public.safetensors"
    out.unlink(missing_ok=True)
    hospitals = str(folder / "hospitals")
    given = ["pretrain", str(path), "--hospitals", hospitals, "--out", str(out), *ABOUT, *options]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0, told.output + repr(told.exception)
    assert 'initial = "public.safetensors"' in told.output
    return arrays_of(out.read_bytes())


def test_a_study_begins_with_what_it_writes(folder: Path) -> None:
    made(folder, initial="public.safetensors")
    study = load_study(folder / "study.toml")
    named = study.model.initial
    assert named is not None
    assert (named.source, named.trained_on) == ("this project", "bright squares")
    initial = load_initial(study, folder)
    assert initial is not None
    assert not [name for name in initial if name.endswith(".head.weight")]
    model = seeded_model(study, 3, initial)
    (projected,) = (each for each in model.modules() if isinstance(each, Projected))
    name = next(each for each in initial if each.endswith("projection.weight"))
    assert np.array_equal(projected.projection.weight.detach().numpy(), initial[name])
    assert not projected.projection.weight.requires_grad


def test_the_same_hospitals_and_seed_give_the_same_file_and_rounds_train_all_of_it(
    folder: Path,
) -> None:
    first, again = made(folder, widths=[8]), made(folder, widths=[8])
    assert all(np.array_equal(first[name], again[name]) for name in first)
    trained = made(folder, "--rounds", "3", widths=[8])
    assert set(trained) == set(first)
    assert not np.array_equal(trained["0.weight"], first["0.weight"])


def test_it_begins_with_the_weights_that_it_is_given(folder: Path, tmp_path: Path) -> None:
    first = made(folder, "--rounds", "2", widths=[8])
    (tmp_path / "base.safetensors").write_bytes((folder / "public.safetensors").read_bytes())
    found = made(folder, "--start", str(tmp_path / "base.safetensors"), widths=[8])
    assert np.array_equal(found["0.weight"], first["0.weight"])
    other = made(folder, widths=[8])
    assert not np.array_equal(other["0.weight"], first["0.weight"])
