"""The file of a sweep: what it asks for, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import StudyError
from simulations.sweeps.sweep_file import SweepFile, load_sweep
from tests.common.studies import toml

RUNS = {"study": "demo", "hospitals": "hospitals"}


def sweep(settings: dict[str, Any], **runs: Any) -> SweepFile:  # noqa: ANN401 - of a sweep
    return SweepFile.model_validate({"sweep": RUNS | runs, "settings": settings})


def test_a_grid_has_every_combination_once_in_the_order_of_the_file() -> None:
    found = list(sweep({"privacy.epsilon": [1.0, 8.0], "aggregation.strategy": ["a", "b"]}).each())
    assert found == [
        (("privacy.epsilon", epsilon), ("aggregation.strategy", strategy))
        for epsilon in (1.0, 8.0)
        for strategy in ("a", "b")
    ]
    assert list(sweep({}).each()) == [()]


def test_drawn_settings_follow_from_the_seed_and_lie_in_their_ranges() -> None:
    settings = {
        "training.learning_rate": {"least": 0.01, "most": 10.0, "scale": "log"},
        "training.rounds": {"least": 5, "most": 9, "whole": True},
        "model.name": ["cnn", "scattering"],
    }
    drawn = list(sweep(settings, method="random", runs=40).each())
    assert drawn == list(sweep(settings, method="random", runs=40).each())
    assert drawn != list(sweep(settings, method="random", runs=40, draw_seed=1).each())
    rates = [dict(each)["training.learning_rate"] for each in drawn]
    assert len(drawn) == 40
    assert all(0.01 <= rate <= 10 for rate in rates)
    assert sum(rate < 0.3 for rate in rates) > 10  # spread on a log scale
    assert {dict(each)["training.rounds"] for each in drawn} <= {5, 6, 7, 8, 9}
    assert {dict(each)["model.name"] for each in drawn} == {"cnn", "scattering"}


def test_settings_that_are_drawn_twice_are_run_once() -> None:
    drawn = list(sweep({"model.name": ["cnn", "scattering"]}, method="random", runs=50).each())
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("settings", "runs", "said"),
    [
        ({"privacy.epsilon": []}, {}, "no value"),
        ({"privacy.epsilon": {"least": 1, "most": 8}}, {}, "a range"),
        ({"privacy.epsilon": {"least": 8, "most": 1}}, {"method": "random"}, "least"),
        ({"Privacy": [1]}, {}, "pattern"),
        ({"a.b": list(range(200)), "c.d": list(range(200))}, {}, "more than"),
        ({}, {"seeds": []}, "seeds"),
    ],
)
def test_what_cannot_be_run_is_refused(
    settings: dict[str, Any], runs: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(toml({"sweep": RUNS | runs, "settings": settings}))
    with pytest.raises(StudyError) as caught:
        load_sweep(path)
    assert said in str(caught.value)
