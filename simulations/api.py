"""Simulations from Python: what the commands do, for notebooks and scripts.

::

    from simulations.api import compare, run, sweep

    result = run("demo", "hospitals", "runs/one", seed=3)
    print(result.metrics.main.value)
    for row in compare(sweep("curve.toml", "runs/curve")):
        print(row.settings, row.reached.mean)

A study is a path or the name of a shipped one. Every error is a
:class:`common.errors.ConsiliumError`, which says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulations.cli.studies import find_study, study_of_sweep
from simulations.reports.result import Result
from simulations.runs.run import run_study
from simulations.runs.run_settings import PROCESSES, RunSettings, Watcher
from simulations.sweeps import compare as comparison
from simulations.sweeps.compare import Compared
from simulations.sweeps.records import Record
from simulations.sweeps.sweep import SweepSettings, run_sweep

__all__ = ["compare", "run", "sweep"]


def run(
    study: str | Path,
    hospitals: str | Path,
    out: str | Path,
    *,
    watcher: Watcher | None = None,
    **settings: Any,  # noqa: ANN401 - fields of RunSettings
) -> Result:
    """Run a study, or go on with it.

    Args:
        study: a file, or the name of a shipped study.
        hospitals: folder of the hospitals.
        out: folder that everything is written to.
        watcher: told the progress.
        settings: more fields of :class:`simulations.runs.run_settings.RunSettings`.

    Returns:
        What ``result.json`` holds.

    Raises:
        ConsiliumError: something that the researcher can fix.
    """
    plain = RunSettings(
        find_study(str(study)),
        Path(hospitals),
        Path(out),
        baselines=False,
        resume=True,
        command="simulations.api.run",
    )
    return run_study(replace(plain, **settings), watcher)


def sweep(
    file: str | Path, out: str | Path, *, processes: int = PROCESSES, keep: bool = False
) -> tuple[Record, ...]:
    """Run what is missing of a sweep; gives every finished run.

    Raises:
        ConsiliumError: the sweep cannot be used, or a run of it failed.
    """
    path = Path(file)
    found = run_sweep(SweepSettings(path, study_of_sweep(path), Path(out), processes, keep))
    found.require_all()
    return found.records


def compare(records: Iterable[Record]) -> tuple[Compared, ...]:
    """Means and intervals over seeds, and paired tests against the first setting.

    Raises:
        StudyError: there are no runs, or they are judged by different figures.
    """
    return comparison.compare(records)
