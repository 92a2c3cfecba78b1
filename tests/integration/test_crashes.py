"""``kill -9`` at any moment costs nothing: the same weights, and every round charged once."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from client.records.verify import inspect_state
from tests.integration.conftest import SITES, Simulate, study_text

# fedavg keeps nothing from round to round that these two do not keep as well.
OPTIONS: dict[str, dict[str, Any]] = {
    "fedavgm": {"server_momentum": 0.9},
    "fedadam": {"eta": 0.05, "tau": 0.01},
}
MOMENTS = (
    "file.half-written:run.json",
    "charge.committed:1",
    "reservation.made:1",
    "training.step:2",
    "reply.stored:2",
    "update.folded:2",
    "checkpoint.begun:2",
    "file.half-written:round-000002.safetensors",
    "file.half-written:round-000002.json",
    "checkpoint.written:2",
    "training.step:3",
    "update.folded:3",
    "file.half-written:result.json",
)


def charges(run: Path) -> dict[str, list[tuple[int, str, str]]]:
    """Round, part and state of each charge in each site's ledger, in order."""
    found = {}
    for name in SITES:
        with sqlite3.connect(run / "sites" / name / "site.sqlite") as ledger:
            found[name] = ledger.execute(
                "SELECT round, part, state FROM charges ORDER BY length"
            ).fetchall()
    return found


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return {key: value for key, value in found.items() if key not in {"seconds", "command"}}


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "kept"), [("fedavgm", True), ("fedadam", False)])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_nobody_disturbed(
    strategy: str, *, kept: bool, hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, calm, hurt = tmp_path / "study.toml", tmp_path / "calm", tmp_path / "hurt"
    study.write_text(
        study_text(
            aggregation={"strategy": strategy, "average_decay": 0.5},
            aggregation__options=OPTIONS[strategy],
        )
    )
    more = ["--keep-records"] if kept else []
    words = ("run", study, "--hospitals", hospitals, "--no-baselines", "--no-package", *more)
    undisturbed = simulate(*words, "--out", calm)
    assert undisturbed.returncode == 0, undisturbed.stderr

    for moment in MOMENTS:
        killed = simulate(
            *words, "--out", hurt, "--resume", environment={"CONSILIUM_KILL_AT": moment}
        )
        assert killed.returncode == -signal.SIGKILL, f"{moment}: {killed.stderr}"
    resumed = simulate(*words, "--out", hurt, "--resume")

    assert resumed.returncode == 0, resumed.stderr
    assert result(hurt) == result(calm)
    assert not list(hurt.rglob(".*.tmp"))
    if not kept:
        assert not list(hurt.rglob("site.sqlite"))
        return
    once = [(number, "train", "committed") for number in (1, 2, 3)]
    assert charges(hurt) == {name: [*once, (3, "validation", "committed")] for name in SITES}
    assert all(inspect_state(hurt / "sites" / name, name).sound for name in SITES)


def test_a_charge_is_spent_before_training_begins_and_not_again_after(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(study_text())
    words = ("run", study, "--hospitals", hospitals, "--no-baselines", "--no-package", "--out", run)
    environment = {"CONSILIUM_KILL_AT": "training.step:1"}
    simulate(*words, "--keep-records", environment=environment)

    left = charges(run)

    assert left == {"alder": [(1, "train", "reserved")], "birch": [], "cedar": []}


@pytest.mark.long
def test_a_new_run_does_not_overwrite_one_that_was_killed(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(study_text())
    words = ("run", study, "--hospitals", hospitals, "--no-baselines", "--no-package", "--out", run)
    simulate(*words, environment={"CONSILIUM_KILL_AT": "checkpoint.written:1"})

    again = simulate(*words)

    assert again.returncode == 2
    assert "--resume to continue" in again.stderr
    assert (run / "coordinator" / "checkpoints" / "round-000001.json").exists()
