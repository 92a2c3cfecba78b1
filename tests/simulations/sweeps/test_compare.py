"""Runs side by side: means and intervals over seeds, and differences on the same seeds."""

from __future__ import annotations

import csv
import io
import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from rich.console import Console
from scipy import stats

from common.errors import CheckpointError, StudyError
from simulations.sweeps.compare import as_csv, as_latex, compare, settings_said, table
from simulations.sweeps.page import finish
from simulations.sweeps.records import FILE, PARQUET, Record, Records


def record(
    epsilon: float,
    seed: int,
    reached: float | None,
    headline: str = "auc",
    sites: dict[str, float | None] | None = None,
) -> Record:
    return Record(
        name=f"{epsilon}-{seed}",
        settings=json.dumps({"privacy.epsilon": epsilon, "model.name": "cnn_a"}),
        seed=seed,
        headline=headline,
        values=json.dumps({headline: reached, "accuracy": 0.5}),
        sites=json.dumps(sites or {}),
        epsilon=epsilon,
        weights_sha256="0" * 64,
        seconds=1.5,
    )


ONE, OTHER = [0.70, 0.74, 0.72], [0.80, 0.85, 0.84]
RUNS = [record(1.0, seed, each) for seed, each in enumerate(ONE)]
RUNS += [record(8.0, seed, each) for seed, each in enumerate(OTHER)]


def test_a_row_has_students_interval_over_seeds_and_a_paired_test() -> None:
    first, second = compare(RUNS)
    low, high = stats.t.interval(0.95, 2, np.mean(ONE), stats.sem(ONE))
    assert first.reached.mean == pytest.approx(0.72)
    assert first.reached.low == pytest.approx(low)
    assert first.reached.high == pytest.approx(high)
    assert first.ahead is None
    assert second.ahead is not None
    assert second.ahead.mean == pytest.approx(0.11)
    assert second.chance == pytest.approx(stats.ttest_rel(OTHER, ONE).pvalue)
    assert second.epsilon == 8.0
    assert second.seeds == (0, 1, 2)


def test_only_seeds_that_both_have_are_compared() -> None:
    _, second = compare([*RUNS[:2], *RUNS[3:]])
    assert second.ahead is not None
    assert second.ahead.mean == pytest.approx(np.mean([0.10, 0.11]))
    _, alone = compare([RUNS[0], RUNS[4]])
    assert alone.ahead is None
    assert math.isnan(alone.reached.low)


def test_a_figure_that_is_not_defined_is_no_number() -> None:
    (row,) = compare([record(1.0, 0, None)])
    assert math.isnan(row.reached.mean)


def test_runs_that_are_judged_by_other_figures_are_not_compared() -> None:
    for runs in ([], [RUNS[0], record(8.0, 0, 0.5, "dice")]):
        with pytest.raises(StudyError):
            compare(runs)


def test_tables_are_written_for_other_programs(tmp_path: Path) -> None:
    rows = compare(RUNS)
    read = list(csv.reader(io.StringIO(as_csv(rows))))
    head, first, second = read
    assert head[:5] == ["privacy.epsilon", "model.name", "seeds", "mean", "mean_low"]
    assert float(first[3]) == rows[0].reached.mean
    assert second[:3] == ["8.0", "cnn_a", "3"]
    assert rows[1].ahead is not None
    held = dict(zip(head, second, strict=True))
    assert float(held["ahead_high"]) == rows[1].ahead.high
    assert float(held["p"]) == rows[1].chance
    assert float(held["epsilon_paid"]) == 8.0
    assert (first[head.index("p")], first[head.index("worst_hospital")]) == ("", "")
    assert table(rows)[1][-3] == "(the first)"
    latex = as_latex(rows)
    assert r"cnn\_a" in latex
    assert "costs its epsilon" in latex
    assert latex.count(r"\\") == 3
    shown = io.StringIO()
    finish(RUNS, tmp_path, Console(file=shown, width=200), [tmp_path])
    names = ["comparison.csv", "comparison.tex", "utility-against-epsilon.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(name in shown.getvalue() for name in names)
    assert (tmp_path / names[-1]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"privacy.epsilon": 1.0, "training.rounds": 5}, "epsilon 1, rounds 5"),
        (
            {"aggregation": {"options": {"eta": 0.03}, "strategy": "fedadam"}},
            "fedadam (eta 0.03)",
        ),
        ({"aggregation": {"strategy": "fedavg"}, "participation.share": 0.5}, "fedavg, share 0.5"),
        ({"model.name": "cnn", "data.image_size": [28, 28]}, "cnn, image_size [28, 28]"),
        ({"model": {"widths": [4]}}, "widths [4]"),
        ({"training.learning_rate": 0.12345678}, "learning_rate 0.12345678"),
        ({"model": {"name": "cnn", "norm": "cnn"}}, "cnn (norm cnn)"),
        ({}, ""),
    ],
)
def test_settings_are_told_in_words(settings: dict[str, Any], said: str) -> None:
    assert settings_said(settings) == said


def test_the_worst_hospital_of_each_run_is_compared_and_all_are_drawn(tmp_path: Path) -> None:
    sites = [{"north": 0.9, "south": 0.6, "east": None}, {"north": 0.7, "south": 0.8, "east": None}]
    runs = [record(1.0, seed, 0.8, sites=each) for seed, each in enumerate(sites)]
    rows = compare([*runs, record(8.0, 0, 0.9)])
    assert rows[0].worst is not None
    assert rows[0].worst.mean == pytest.approx(0.65)
    assert rows[1].worst is None
    head, first, second = table(rows)
    assert first[head.index("worst hospital")] == "0.650"
    assert second[head.index("worst hospital")] == ""
    finish(runs, tmp_path, Console(file=io.StringIO()), [tmp_path])
    assert (tmp_path / "fairness.png").read_bytes().startswith(b"\x89PNG")
    records = Records(tmp_path)
    for each in runs:
        records.add(each)
    records.export()
    read = pyarrow.parquet.read_table(tmp_path / PARQUET)
    assert read.column("worst_hospital").to_pylist() == [0.6, 0.7]


def test_records_are_kept_once_and_exported_with_a_column_for_each_figure(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for each in [*RUNS, RUNS[0]]:
        records.add(each)
    assert set(Records(tmp_path).all()) == set(RUNS)
    records.export()
    read = pyarrow.parquet.read_table(tmp_path / PARQUET)
    assert read.num_rows == 6
    assert read.column("auc").to_pylist() == [*ONE, *OTHER]
    assert read.column("privacy.epsilon").to_pylist() == [1.0] * 3 + [8.0] * 3


def test_a_table_of_an_earlier_version_is_said_to_be_one(tmp_path: Path) -> None:
    Records(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as store, store:
        store.execute("ALTER TABLE runs DROP COLUMN sites")
    with pytest.raises(CheckpointError, match="another version") as caught:
        Records(tmp_path)
    assert "delete the file" in str(caught.value)


def test_a_damaged_table_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no table" * 1000)
    with pytest.raises(Exception, match="table of the sweep") as caught:
        Records(tmp_path)
    assert "delete the file" in str(caught.value)
