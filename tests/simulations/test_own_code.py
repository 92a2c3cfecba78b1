"""A researcher's strategy takes the server's step; a file that is wrong is told."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from common.errors import RoundError, StudyError
from simulations.own_code import own_step
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.simulations.squares import square_hospitals, square_study

PLAIN = """
def step(round_number, weights, reached, state):
    ((mean, count),) = reached
    return mean, state
"""
MEDIAN = """
import numpy as np
EVERY_REPLY = True
def step(round_number, weights, reached, state):
    assert len(reached) == 3
    seen = state.get("seen", np.zeros(1)) + 1
    assert seen[0] == round_number
    return np.median([each for each, _ in reached], axis=0), {"seen": seen}
"""
BEFORE = np.zeros(3, np.float32)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_the_plain_mean_ends_in_the_bits_of_fedavg_and_a_median_does_not(tmp_path: Path) -> None:
    square_hospitals(tmp_path / "hospitals")
    study = square_study(tmp_path / "study.toml")
    found = {}
    for name, text in (("fedavg", None), ("plain", PLAIN), ("median", MEDIAN)):
        path = None if text is None else written(tmp_path, text)
        result = run_study(
            RunSettings(
                study, tmp_path / "hospitals", tmp_path / name, baselines=False, strategy=path
            )
        )
        said = [each for each in result.warnings if each.startswith("OWN STRATEGY")]
        assert bool(said) == (path is not None)
        found[name] = result.final_weights_sha256
    assert found["plain"] == found["fedavg"] != found["median"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def step(*given):\n    return given[1][:2], {}", "no usable weights"),
        ("def step(*given):\n    return given[1] * float('nan'), {}", "no usable weights"),
        ("def step(*given):\n    return given[1]", "strategy failed"),
        ("def step(*given):\n    raise KeyError('x')", "strategy failed"),
    ],
)
def test_what_it_gives_must_be_weights(tmp_path: Path, text: str, said: str) -> None:
    step = own_step(written(tmp_path, text))
    with pytest.raises(RoundError, match=said):
        step(1, BEFORE, [(BEFORE.astype(np.float64), 1)], {})


def test_it_cannot_change_the_weights_that_the_round_began_with(tmp_path: Path) -> None:
    step = own_step(written(tmp_path, "def step(n, w, r, s):\n    w += 1\n    return w, {}"))
    weights, _ = step(1, BEFORE, [], {})
    assert weights.tolist() == [1, 1, 1]
    assert BEFORE.tolist() == [0, 0, 0]


@pytest.mark.parametrize("text", ["step = 3", "1 / 0", ""])
def test_a_file_without_a_step_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(StudyError):
        own_step(written(tmp_path, text))


def test_no_deployment_has_a_step_of_its_own(root: Path) -> None:
    """Nothing of a hospital or a coordinator loads a file of Python, or gives an app a step."""
    for package in ("client", "server", "common"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    assert node.attr not in {"spec_from_file_location", "exec_module"}, path
                if isinstance(node, ast.Call):
                    made = [each for each in node.keywords if each.arg == "own"]
                    assert all(isinstance(each.value, ast.Name) for each in made), path
                    assert getattr(node.func, "id", "") != "OwnStep", path
