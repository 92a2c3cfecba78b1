"""A sweep that is interrupted ends in the table of one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import StudyError
from simulations.sweeps.compare import as_csv, compare
from simulations.sweeps.records import FILE, Record, Records
from simulations.sweeps.sweep import SweepSettings, run_sweep
from tests.common.studies import toml
from tests.integration.conftest import study_text, write_hospitals
from tests.simulations.squares import square_hospitals, square_study
from tests.waiting import PATIENCE

SWEEP = {"study": "tiny.toml", "hospitals": "hospitals", "seeds": [0, 1]}
EPSILONS = {"privacy.epsilon": [2.0, 8.0]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.toml").write_text(study_text())
    (folder / "hospitals").mkdir()
    write_hospitals(folder / "hospitals")
    (folder / "sweep.toml").write_text(toml({"sweep": SWEEP, "settings": EPSILONS}))
    return folder


def settings(world: Path, folder: Path, *, keep: bool = False) -> SweepSettings:
    return SweepSettings(world / "sweep.toml", world / "tiny.toml", folder, 2, keep=keep)


def told(records: tuple[Record, ...]) -> list[tuple[object, ...]]:
    """Everything but how long it took."""
    return [(each.name, each.settings, each.values, each.weights_sha256) for each in records]


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Record, ...]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, run_sweep(settings(world, folder)).records


def test_each_setting_is_run_with_each_seed_and_kept(
    alone: tuple[Path, tuple[Record, ...]],
) -> None:
    folder, records = alone
    assert [(json.loads(each.settings), each.seed) for each in records] == [
        ({"privacy.epsilon": epsilon}, seed) for epsilon in (2.0, 8.0) for seed in (0, 1)
    ]
    assert len({each.weights_sha256 for each in records}) == 4
    assert all(each.epsilon is not None for each in records)
    assert all(0 <= each.reached <= 1 for each in records)
    assert all(each.at_sites and 0 <= min(each.at_sites) <= 1 for each in records)
    assert sorted(path.name for path in (folder / "results").iterdir()) == sorted(
        each.name for each in records
    )
    assert list((folder / "runs").iterdir()) == []


def test_what_is_done_is_not_run_again_also_where_the_table_was_lost(
    world: Path, alone: tuple[Path, tuple[Record, ...]]
) -> None:
    folder, records = alone
    before = time.time_ns()
    assert told(run_sweep(settings(world, folder)).records) == told(records)
    (folder / FILE).unlink()
    assert told(run_sweep(settings(world, folder)).records) == told(records)
    results = (folder / "results").glob("*/result.json")
    assert all(path.stat().st_mtime_ns < before for path in results)


@pytest.mark.long
def test_a_sweep_of_sixty_runs_that_is_killed_twice_ends_in_the_same_tables(tmp_path: Path) -> None:
    square_hospitals(tmp_path / "hospitals")
    square_study(tmp_path / "tiny.toml")
    runs = {**SWEEP, "seeds": list(range(10))}
    varied = {"privacy.epsilon": [1.0, 2.0, 3.0], "training.learning_rate": [0.1, 0.2]}
    (tmp_path / "sweep.toml").write_text(toml({"sweep": runs, "settings": varied}))
    calm = run_sweep(settings(tmp_path, tmp_path / "calm")).records
    assert len(calm) == 60

    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.launch_sweep", str(tmp_path), str(folder)]
    for finished in (10, 35):
        started = subprocess.Popen(command, start_new_session=True)
        end = time.monotonic() + PATIENCE
        while len(Records(folder).all()) < finished and time.monotonic() < end:
            assert started.poll() is None
            time.sleep(0.1)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        assert finished <= len(Records(folder).all()) < 60
    found = run_sweep(settings(tmp_path, folder)).records
    assert told(found) == told(calm)
    assert as_csv(compare(found)) == as_csv(compare(calm))


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_of_a_sweep_that_ends_goes_on_and_none_begins_beside_another(
    world: Path, tmp_path: Path, how: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tests.launch_sweep", str(world), str(tmp_path)]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    runs, end = tmp_path / "runs", time.monotonic() + PATIENCE
    while not list(runs.glob("*/coordinator/checkpoints/*")) and time.monotonic() < end:
        assert started.poll() is None
        time.sleep(0.05)
    with pytest.raises(StudyError, match="another process works on this sweep") as caught:
        run_sweep(settings(world, tmp_path))
    assert caught.value.details["found"] == f"process {started.pid}"
    workers = [
        int(pid)
        for pid in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    ]
    assert len(workers) >= 2
    started.send_signal(how)
    started.wait(PATIENCE)
    while any(map(running, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(running, workers))
    assert len(run_sweep(settings(world, tmp_path)).records) == 4


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_cannot_be_finished_is_told_and_the_others_go_on(
    world: Path, tmp_path: Path
) -> None:
    """With epsilon 9 the study asks for more than the hospitals' policies allow."""
    path = world / "refused.toml"
    runs = SWEEP | {"seeds": [0]}
    path.write_text(toml({"sweep": runs, "settings": {"privacy.epsilon": [8.0, 9.0]}}))
    found = run_sweep(SweepSettings(path, world / "tiny.toml", tmp_path, 1, keep=True))
    assert (tmp_path / "runs" / found.records[0].name / "report.html").exists()
    assert [json.loads(each.settings) for each in found.records] == [{"privacy.epsilon": 8.0}]
    ((cell, why),) = found.failed
    assert dict(cell.settings) == {"privacy.epsilon": 9.0}
    assert "max_epsilon_per_study" in why


def test_a_setting_that_no_study_has_is_refused_before_the_first_run(
    world: Path, tmp_path: Path
) -> None:
    path = world / "wrong.toml"
    path.write_text(toml({"sweep": SWEEP, "settings": {"training.speed": [1.0]}}))
    with pytest.raises(StudyError) as caught:
        run_sweep(SweepSettings(path, world / "tiny.toml", tmp_path, 1))
    assert "training.speed = 1.0" in str(caught.value)
    assert not (tmp_path / "results").exists()
