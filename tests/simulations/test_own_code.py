"""A researcher's strategy takes the server's step; a file that is wrong is told."""

from __future__ import annotations

import ast
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from common.errors import CheckpointError, RoundError, StudyError
from common.files import sha256
from common.study.study_file import load_study
from simulations.grids.participation import Participation
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
        *(
            (f"import numpy as np\ndef step(*given):\n    return given[1], {{'a': {state}}}", said)
            for state, said in [
                ("None", "strategy failed"),
                ("'text'", "strategy failed"),
                ("1j", "strategy failed"),
                ("np.longdouble(1)", "strategy failed"),
            ]
        ),
    ],
)
def test_what_it_gives_must_be_weights(tmp_path: Path, text: str, said: str) -> None:
    step = own_step(written(tmp_path, text))
    with pytest.raises(RoundError, match=said):
        step(1, BEFORE, [(BEFORE.astype(np.float64), 1)], {})


def test_weights_and_state_are_what_a_checkpoint_gives_back(tmp_path: Path) -> None:
    text = """
import numpy as np
def step(number, weights, reached, state):
    return np.stack([weights + 1, weights], axis=1)[:, 0], {"k": 3, "m": np.eye(3)[:, ::2]}
"""
    weights, state = own_step(written(tmp_path, text))(1, BEFORE, [], {})
    assert weights.flags.c_contiguous
    assert weights.tolist() == [1, 1, 1]
    assert state["k"].shape == (1,)
    assert state["m"].flags.c_contiguous


def test_a_file_is_run_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = f"open({str(log)!r}, 'a').write('x')\nEVERY_REPLY = True\ndef step(*_): ..."
    assert own_step(written(tmp_path, text)).every_reply
    assert log.read_text() == "x"


def test_a_study_of_one_release_has_no_strategy(tmp_path: Path) -> None:
    study = load_study(square_study(tmp_path / "study.toml"))
    path = written(tmp_path, PLAIN)
    own_step(path, study)
    training = study.training.model_copy(update={"method": "one-shot"})
    with pytest.raises(StudyError, match="no strategy"):
        own_step(path, study.model_copy(update={"training": training}))


def test_what_is_published_and_packed_is_what_was_hashed_and_says_whose_strategy_it_was(
    tmp_path: Path,
) -> None:
    square_hospitals(tmp_path / "hospitals")
    study = square_study(tmp_path / "study.toml")
    text = PLAIN.replace("return mean", "return np.stack([mean, 0 * mean], axis=1)[:, 0]")
    path = written(tmp_path, f"import numpy as np\n{text}")
    settings = RunSettings(
        study,
        tmp_path / "hospitals",
        tmp_path / "run",
        baselines=False,
        package=True,
        report=False,
        strategy=path,
    )
    result = run_study(settings)
    file = tmp_path / "run" / "coordinator" / "final.safetensors"
    weights = safetensors.numpy.load_file(file)["weights"]
    assert sha256(weights.tobytes()) == result.final_weights_sha256
    with zipfile.ZipFile(tmp_path / "run" / "model.consilium") as package:
        told = b"".join(package.read(name) for name in package.namelist())
    assert b"OWN STRATEGY" in told

    for left_out in ({"strategy": None}, {"participation": Participation(share=0.5)}):
        with pytest.raises(CheckpointError, match="another study"):
            run_study(replace(settings, resume=True, **left_out))


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
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {each.name.split(".")[0] for each in node.names}
                    names |= {(getattr(node, "module", None) or "").split(".")[0]}
                    assert not names & {"runpy", "imp"}, path
                if isinstance(node, ast.Call):
                    made = [each for each in node.keywords if each.arg == "own"]
                    assert all(isinstance(each.value, ast.Name) for each in made), path
                    called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    assert called != "OwnStep", path
                    assert getattr(node.func, "id", "") not in {"exec", "eval"}, path
