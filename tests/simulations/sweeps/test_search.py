"""A search goes on where it was and finds the better half; what was found goes elsewhere too."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import StudyError
from simulations.api import compare, run, sweep
from simulations.sweeps.live import LiveTable
from simulations.sweeps.pictures import convergence
from simulations.sweeps.records import Record, Records
from simulations.sweeps.search import Search
from simulations.sweeps.sweep import Told, at_a_time
from simulations.sweeps.sweep_file import Runs, SweepFile
from simulations.sweeps.trackers import to_mlflow, to_tensorboard
from tests.common.studies import toml
from tests.simulations.squares import square_hospitals, square_study

RUNS = {"study": "s.toml", "hospitals": "h", "method": "optuna", "runs": 30}


def looked_for(stop: int | None = None) -> list[tuple[float, str]]:
    """Settings that a search asks for, where 0.3 and "b" are best."""
    settings = {"a.rate": {"least": 0.0, "most": 1.0}, "a.kind": ["a", "b", "c"]}
    file = SweepFile.model_validate({"sweep": RUNS, "settings": settings})
    search, found = Search(file), []
    for asked in search.each():
        given = dict(asked)
        found.append((given["a.rate"], given["a.kind"]))
        if len(found) == stop:
            break
        search.tell(1 - abs(given["a.rate"] - 0.3) + 0.2 * (given["a.kind"] == "b"))
    return found


def test_a_search_draws_where_earlier_settings_did_best() -> None:
    found = looked_for()
    late = found[20:]
    first = found[:10]
    assert sum(abs(rate - 0.3) for rate, _ in late) < sum(abs(rate - 0.3) for rate, _ in first)
    assert sum(kind == "b" for _, kind in late) >= 7


def test_a_search_that_begins_again_asks_for_the_same_settings() -> None:
    assert looked_for()[:12] == looked_for(12)


def test_a_setting_that_failed_is_told_and_the_search_goes_on() -> None:
    file = SweepFile(sweep=Runs.model_validate(RUNS | {"runs": 3}), settings={"a.b": [1, 2]})
    search = Search(file)
    for _, reached in zip(search.each(), (None, math.nan, 0.5), strict=True):
        search.tell(reached)


def test_memory_bounds_how_many_runs_are_made_at_a_time() -> None:
    def most(**more: float) -> int:
        return at_a_time(4, Runs.model_validate(RUNS | more))

    assert most() == 4
    assert most(memory_gib=1e5) == 1
    assert most(memory_gib=1e-6) == 4


def record(settings: str, seed: int, reached: float) -> Record:
    values = json.dumps({"auc": reached})
    return Record(f"{seed}", settings, seed, "auc", values, "{}", 1.0, "ab" * 32, 1.0)


def test_without_a_terminal_each_run_is_a_line_with_the_time_that_is_left() -> None:
    said = io.StringIO()
    with LiveTable(Console(file=said, width=200)) as table:
        table.begin(3)
        table.known(record('{"privacy.epsilon": 1.0}', 0, 0.7))
        table.done(record('{"privacy.epsilon": 1.0}', 1, 0.8))
        assert re.fullmatch(r"2 of 3 runs, \d+ s left", table.state)
        assert table.state in said.getvalue()
        assert "epsilon 1, seed 1: auc 0.800" in said.getvalue()


def test_on_a_terminal_a_table_shows_the_mean_so_far() -> None:
    said = io.StringIO()
    with LiveTable(Console(file=said, force_terminal=True, width=120)) as table:
        table.begin(2)
        table.done(record('{"a.b": 1}', 0, 0.7))
        table.done(record('{"a.b": 1}', 1, 0.8))
    assert "2 of 2 runs" in said.getvalue()
    assert "0.750" in said.getvalue()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Record, ...]]:
    """Two shares of participation and two seeds, by the Python API."""
    folder = tmp_path_factory.mktemp("swept")
    square_hospitals(folder / "hospitals", sites=4)
    square_study(folder / "squares.toml", evaluation={"rounds": "none"})
    about = {"study": "squares.toml", "hospitals": "hospitals", "seeds": [0, 1]}
    settings = {"participation.share": [0.5, 1.0]}
    (folder / "sweep.toml").write_text(toml({"sweep": about, "settings": settings}))
    return folder, sweep(folder / "sweep.toml", folder / "out", processes=1)


@pytest.mark.long
def test_a_sweep_from_python_is_compared_drawn_and_given_to_other_programs(
    swept: tuple[Path, tuple[Record, ...]],
) -> None:
    folder, records = swept
    assert len({each.weights_sha256 for each in records}) == 4
    rows = compare(records)
    assert [row.settings for row in rows] == [
        {"participation.share": 0.5},
        {"participation.share": 1.0},
    ]
    out = folder / "out"
    assert (convergence(records, [out]) or b"").startswith(b"\x89PNG")
    assert convergence(records, [folder / "elsewhere"]) is None
    kept = Records(out).all()
    assert to_mlflow(out, kept, str(folder / "mlflow")) == 4
    assert to_mlflow(out, kept, str(folder / "mlflow")) == 0  # each once
    assert to_tensorboard(out, kept, folder / "logs") == 4
    assert len(list((folder / "logs").rglob("events.out.*"))) == 4


@pytest.mark.long
def test_a_run_from_python_gives_what_the_command_writes(tmp_path: Path) -> None:
    square_hospitals(tmp_path / "hospitals")
    study = square_study(tmp_path / "squares.toml")
    result = run(study, tmp_path / "hospitals", tmp_path / "out", seed=3)
    assert result.seeds.run == 3
    assert (tmp_path / "out" / "result.json").exists()


@pytest.mark.long
def test_a_sweep_from_python_says_which_run_failed(
    tmp_path: Path, swept: tuple[Path, tuple[Record, ...]]
) -> None:
    folder, _ = swept
    about = {"study": "squares.toml", "hospitals": "hospitals"}
    text = toml({"sweep": about, "settings": {"privacy.epsilon": [1e-3]}})
    (folder / "bad.toml").write_text(text)
    with pytest.raises(StudyError, match="of the sweep failed"):
        sweep(folder / "bad.toml", tmp_path / "out", processes=1)


def test_who_ignores_a_sweep_can_be_told_everything() -> None:
    told = Told()
    told.begin(1)
    told.known(record("{}", 0, 0.5))
    told.done(record("{}", 0, 0.5))
