"""What advice tries on drawn radiographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from common.errors import StudyError
from common.process.progress import silent
from common.study.study_file import Study
from simulations.advice import drawn, trial
from simulations.advice.drawn import looks, radiographs
from simulations.advice.trial import curve
from simulations.cli.app import app
from tests.common.studies import document, small_study, toml

TWENTY_EIGHT: dict[str, Any] = {"image_size": [28, 28]}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "TESTED", 150)
    monkeypatch.setattr(drawn, "PUBLIC", 150)


def linear(**sections: Any) -> Study:  # noqa: ANN401 - sections of a study
    given: dict[str, Any] = {"data": TWENTY_EIGHT, "model": {"name": "scattering", "scales": 3}}
    training = {"rounds": 10, "batch_size": 200, "learning_rate": 1.0}
    return small_study(**given | {"training": training} | sections)


def test_radiographs_follow_from_the_seed_and_show_two_classes() -> None:
    scanners = looks(3)
    pixels, labels = radiographs(scanners, 40, 5)
    again, _ = radiographs(scanners, 40, 5)
    assert pixels.shape == (40, 1, 28, 28)
    assert np.array_equal(pixels, again)
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert set(labels.tolist()) == {0, 1}
    assert not np.array_equal(pixels, radiographs(scanners, 40, 6)[0])


def test_less_noise_reaches_more_and_a_study_of_few_weights_is_tried_in_one_release() -> None:
    found = {each.way: each for each in curve(linear(), [60, 60], [0.3, 50.0], silent)}
    head = found["the head, projection = 8"]
    released = found[f"the head, projection = 8, {trial.ONE_RELEASE}"]
    assert head.trained == released.trained == 18
    reached = [each.reached for each in (found["as the study says"], head, released)]
    quiet, loud = ([each[epsilon] or 0.0 for each in reached] for epsilon in (50.0, 0.3))
    assert min(quiet) > 0.75
    assert np.mean(quiet) > np.mean(loud) + 0.1  # one draw of the noise may be a lucky one
    again = {each.way: each for each in curve(linear(), [60, 60], [50.0], silent)}
    assert {way: each.reached[50.0] for way, each in found.items()} == {
        way: each.reached[50.0] for way, each in again.items()
    }


def test_what_would_take_too_long_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST_WORK", 0)
    for each in curve(linear(), [20, 20], [8.0], silent):
        assert each.reached == {8.0: None}


@pytest.mark.parametrize(
    ("study", "patients", "where"),
    [
        (linear(task={"classes": ["a", "b", "c"]}), [20, 20], "[task]"),
        (linear(), [4000, 1], "--patients"),
    ],
)
def test_what_cannot_be_drawn_is_refused(study: Study, patients: list[int], where: str) -> None:
    with pytest.raises(StudyError) as caught:
        curve(study, patients, [8.0], silent)
    assert f"where:  {where}" in str(caught.value)
    assert "do:" in str(caught.value)


def test_the_command_shows_both_tables(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    whole = document(data=TWENTY_EIGHT, model={"name": "scattering", "scales": 3})
    path.write_text(toml(whole | {"training": {"rounds": 2}}))
    options = ["--patients", "20,20", "--epsilon", "8", "--draw"]
    result = CliRunner().invoke(app, ["advise", str(path), *options])
    assert result.exit_code == 0, result.output
    assert "best" in result.output
    assert trial.ONE_RELEASE in result.output
