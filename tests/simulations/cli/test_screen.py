from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from simulations.cli.screen import Screen, show
from simulations.reports.result import Result
from tests.simulations.conftest import outcome


def shown(result: Result) -> str:
    console = Console(file=StringIO(), width=100, highlight=False)
    show(console, result, Path("runs/demo"))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def test_one_screen_holds_the_table_the_cost_the_hash_and_the_report(made_result: Result) -> None:
    said = shown(made_result)

    assert said.splitlines()[0] == made_result.warnings[0]
    assert "Shared model     ε = 8       0.900  0.870 – 0.930     0.820" in said
    assert "west alone       ε = 8       0.840" in said
    assert "All data pooled  no privacy  0.950" in said
    assert "at delta 1e-05: east 7.999, north 7.999" in said
    assert "runs/demo/report.html" in said
    assert "sha256 abababababababab…" in said
    assert len(said.splitlines()) <= 24


def test_of_many_hospitals_the_least_and_the_most_are_told(made_result: Result) -> None:
    many = {f"site-{number:04d}": 9.5 + number / 1000 for number in range(1000)}
    said = shown(made_result.model_copy(update={"epsilon": many}))
    assert "at delta 1e-05: 9.500 to 10.499 at 1000 hospitals" in said
    assert "site-0" not in said

    alike = shown(made_result.model_copy(update={"epsilon": dict.fromkeys(many, 8.0)}))
    assert "at delta 1e-05: 8.000 at 1000 hospitals" in alike


def test_without_privacy_no_epsilon_is_claimed(made_result: Result) -> None:
    said = shown(made_result.model_copy(update={"delta": None}))

    assert "no privacy: nothing limits what the updates reveal" in said
    assert "at delta" not in said


def test_outside_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.begin("AUC")
    with screen.phase("rounds", 4):
        screen.resumed(2)
        screen.round_done(3, outcome("shared", 0.9).curve[-1], 4.321)
        screen.round_done(4, None, None)
    with screen.phase("baselines", 1):
        screen.baseline_done(outcome("alone-private", 0.8, "west"))
    said = capsys.readouterr().err.splitlines()

    assert "continuing after round 2" in said
    assert "round 3: test AUC 0.897, ε 4.33 spent on training" in said
    assert "training together: 4/4 rounds (100 %)" in said
    assert "west alone, private: test AUC 0.800" in said


def test_a_phase_with_nothing_to_do_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().phase("baselines", 0):
        pass

    assert capsys.readouterr().err == ""


def test_a_model_that_diverged_is_named_before_the_table(made_result: Result) -> None:
    note = "training diverged in round 3; these are the weights before it"
    first, *others = made_result.baselines
    baselines = (first.model_copy(update={"note": note}), *others)
    said = shown(made_result.model_copy(update={"baselines": baselines}))

    (line,) = (line for line in said.splitlines() if note in line)
    assert line.startswith(f"{first.site} alone, ")
    assert note not in shown(made_result)
