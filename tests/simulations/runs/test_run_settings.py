from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from common.errors import CheckpointError, DataError, StudyError
from simulations.cli.demonstration import start_afresh
from simulations.runs.run_settings import (
    RECORD,
    Clock,
    RunSettings,
    Watcher,
    check_folder,
    clear,
    contents,
    nothing_left_behind,
)


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    """A run whose hospitals lie in its own folder, as the demo's do."""
    run = tmp_path / "run"
    (run / "hospitals").mkdir(parents=True)
    (run / "hospitals" / "hospitals.json").write_text("{}")
    return RunSettings(study=tmp_path / "study.toml", hospitals=run / "hospitals", run=run)


def test_hospitals_in_the_runs_folder_do_not_count_as_its_contents(settings: RunSettings) -> None:
    check_folder(settings)

    assert contents(settings) == []


def test_what_a_killed_process_left_half_written_does_not_count(settings: RunSettings) -> None:
    (settings.run / f".{RECORD}.123.tmp").write_text("{")

    assert contents(settings) == []


def test_clearing_removes_the_run_and_leaves_the_hospitals(settings: RunSettings) -> None:
    (settings.run / RECORD).write_text("{}")
    (settings.run / "sites" / "north").mkdir(parents=True)
    clear(settings)

    assert [path.name for path in settings.run.iterdir()] == ["hospitals"]
    assert (settings.hospitals / "hospitals.json").exists()


def test_a_run_that_cannot_begin_leaves_nothing_behind(settings: RunSettings) -> None:
    with pytest.raises(DataError), nothing_left_behind(settings):
        (settings.run / RECORD).write_text("{}")
        raise DataError("an image cannot be read")

    assert contents(settings) == []


def test_a_run_that_has_begun_keeps_everything_when_it_fails(settings: RunSettings) -> None:
    (settings.run / RECORD).write_text("{}")
    with pytest.raises(DataError), nothing_left_behind(settings):
        raise DataError("an image cannot be read")

    assert contents(settings) == [settings.run / RECORD]


def test_the_folder_of_a_run_may_not_be_a_file(settings: RunSettings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        check_folder(
            RunSettings(
                settings.study, settings.hospitals, tmp_path / "run/hospitals/hospitals.json"
            )
        )


def test_starting_afresh_removes_a_run_but_no_folder_that_is_none(settings: RunSettings) -> None:
    (settings.run / RECORD).write_text("{}")
    start_afresh(settings)
    assert contents(settings) == []

    (settings.run / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="nothing in it was removed"):
        start_afresh(settings)
    assert (settings.run / "thesis.txt").exists()


def test_a_clock_counts_each_phase_by_itself() -> None:
    clock, began = Clock(), time.perf_counter()
    with clock.time("decode"):
        pass
    with clock.time("rounds"):
        pass

    assert set(clock.seconds) == {"decode", "rounds"}
    assert min(clock.seconds.values()) >= 0
    rounding = 0.0005 * len(clock.seconds)
    assert sum(clock.seconds.values()) <= time.perf_counter() - began + rounding


def test_a_watcher_may_look_away() -> None:
    watcher = Watcher()
    with watcher.phase("rounds", 3), watcher.progress("reading", 3, unit="files") as job:
        job.advance()
        watcher.resumed(1)
        watcher.round_done(2, None, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("seed", -1), ("seed", 2**63), ("seed", 10**400), ("threads", 0), ("threads", 10**30)),
        *(("baseline_rate", each) for each in (0.0, -1.0, 1e-300, 1e300, math.inf, math.nan)),
        *(("processes", 0), ("processes", 10**30)),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(option: str, value: float) -> None:
    folder = Path("nowhere")
    with pytest.raises(StudyError, match="out of range") as refused:
        RunSettings(folder, folder, folder, **{option: value})  # type: ignore[arg-type]
    assert refused.value.details["where"] == "--" + option.replace("_", "-")
    assert refused.value.details["wanted"]
