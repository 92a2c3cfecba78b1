"""``consilium-sim advise``: how loud noise would be, from public numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from common.privacy.loudness import loudness
from common.privacy.mechanisms import PatientMechanism, mechanism
from common.study.study_file import Study
from simulations.advice.advice import advise
from simulations.advice.page import in_words
from simulations.cli.app import app
from tests.common.studies import document, small_study, toml


def test_it_is_what_noise_is_to_the_largest_sum_of_all_patients() -> None:
    study = small_study(training={"rounds": 4, "local_steps": 1, "batch_size": 1000})
    sites = [(number, mechanism(study, number, 2 * number)) for number in (30, 60)]
    generator, weights = np.random.default_rng(1), 200
    moved = np.zeros(weights)
    for _ in range(4):
        for number, each in sites:
            assert isinstance(each, PatientMechanism)
            noise = generator.normal(0.0, each.noise_deviation, weights) / each.divisor
            moved += number / 90 * noise
    told = loudness(sites, weights, 4)
    # All patients alike and clipped: each of four steps is as long as the clip norm.
    assert np.linalg.norm(moved) / 4 == pytest.approx(told, rel=0.2)
    assert loudness(sites, 4 * weights, 4) == pytest.approx(2 * told)
    assert loudness([(1, mechanism(small_study(privacy={"mode": "none"}), 30, 60))], 9, 4) == 0.0


def test_fewer_weights_more_patients_and_a_larger_epsilon_are_less_loud() -> None:
    study = small_study(model={"widths": [8], "norm": "group"})
    small, large = (advise(study, [size] * 4, [1.0, 8.0]) for size in (20, 200))
    assert [each.way for each in small][:2] == ["as the study says", "the head and all norms"]
    for one, other in zip(small, large, strict=True):
        assert one.trained == other.trained
        assert (one.loud[1.0] or 0.0) > (one.loud[8.0] or 9.0) > (other.loud[8.0] or 9.0)
    by_way = {each.way: each for each in small}
    head = by_way["the head, projection = 8"]
    assert head.trained == 18
    assert (head.loud[1.0] or 9.0) < (by_way["as the study says"].loud[1.0] or 0.0)
    assert in_words(0.05).endswith("clear")
    assert in_words(2.0).endswith("nearly noise")


def test_a_study_of_one_release_is_advised_on_too() -> None:
    whole = document(model={"projection": 4})
    whole["training"], whole["aggregation"] = {"method": "one-shot"}, {}
    found = advise(Study.model_validate(whole), [40, 60], [3.0])
    assert [each.trained for each in found] == [10, 130, 18]


def told(folder: Path, *options: str, **sections: dict[str, Any]) -> tuple[int, str]:
    path = folder / "study.toml"
    path.write_text(toml(document(**sections)))
    result = CliRunner().invoke(app, ["advise", str(path), *options])
    return result.exit_code, result.output + str(result.exception or "")


def test_the_command_prints_a_table_and_says_what_is_wrong(tmp_path: Path) -> None:
    code, said = told(tmp_path, "--patients", "40,60,25", "--epsilon", "8")
    assert code == 0, said
    assert "as the study says" in said
    assert "epsilon 8" in said
    for patients in ("40,,60", "many", "0", "-3"):
        code, said = told(tmp_path, "--patients", patients)
        assert code != 0
        assert "--patients" in said
    code, said = told(tmp_path, "--patients", "40", privacy={"mode": "none"})
    assert code != 0
    assert "without privacy" in said
