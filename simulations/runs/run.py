"""A whole study in this process: the deployment's two apps over a grid that lives here.

Check everything, open the hospitals, run the rounds, train the baselines, measure the last weights
on the held-out test set, write the result and the report. Resuming is the same path: what is on
disk is continued.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from common.files import write_atomic
from common.study.study_file import load_initial, load_study
from server.study.optimisers import fewest_replies
from simulations.archives.manifest import read_hospitals
from simulations.own_code import own_step
from simulations.reports.report import write_report
from simulations.reports.result import CurvePoint, Outcome, Result, write_result
from simulations.runs.baselines import Holding, file_name, plan_baselines, run_baselines
from simulations.runs.conclusion import conclude
from simulations.runs.curve import Curve
from simulations.runs.federation import (
    Tap,
    federate,
)
from simulations.runs.preflight import check_study
from simulations.runs.prepare import Prepared, prepare
from simulations.runs.run_settings import (
    Clock,
    RunSettings,
    Watcher,
    check_folder,
    check_record,
    check_site_order,
    nothing_left_behind,
    write_record,
)
from simulations.runs.testset import curve_point

CURVE: Final = "curve.json"
BASELINES: Final = "baselines"


def run_study(
    settings: RunSettings, watcher: Watcher | None = None, *, tap: Tap | None = None
) -> Result:
    """Run a study to its end and write result and report.

    Args:
        settings: what is asked for.
        watcher: told the progress.
        tap: put between coordinator and sites.

    Raises:
        ConsiliumError: something that the researcher can fix. Before the first round a new run
            leaves nothing behind; later what is on disk is whole and can be resumed.
    """
    watcher, clock = watcher or Watcher(), Clock()
    check_folder(settings)
    study, hospitals = load_study(settings.study), read_hospitals(settings.hospitals)
    check_study(study, hospitals)
    check_site_order(settings, hospitals)
    check_record(settings, study, hospitals)
    if (part := settings.participation) is not None:
        least = fewest_replies(study.aggregation)
        part.require_enough(hospitals.sites, settings.seed, study.training.rounds, least)
    own = own_step(settings.strategy, study) if settings.strategy else None
    watcher.begin(study.task.names[study.task.headline])
    with ExitStack() as stack:
        # A site that was opened is closed before its folder is removed: else it fails to close, and
        # that error would be shown in place of the one that matters.
        with nothing_left_behind(settings), clock.time("decode"), ExitStack() as opened:
            write_record(settings, study, hospitals)
            prepared = prepare(settings, study, hospitals, opened, watcher, listens=tap is not None)
            stack.push(opened.pop_all())

        def measure(weights: npt.NDArray[np.float32], number: int) -> CurvePoint:
            return curve_point(study, weights, prepared.test, number)

        curve = Curve(settings.run / CURVE, study.training.rounds, measure)
        with clock.time("rounds"), watcher.phase("rounds", study.training.rounds):
            federate(prepared, curve, watcher, tap, own)
        with clock.time("baselines"):
            compared = _compare(prepared, watcher) if settings.baselines else ()
        result = conclude(prepared, curve, compared, clock)
    if settings.report:
        with clock.time("report"):
            write_report(settings.run, result)
    # The report is written before its own seconds are known; only result.json has them.
    result = result.model_copy(update={"seconds": dict(clock.seconds)})
    write_result(settings.run, result)
    return result


def _compare(prepared: Prepared, watcher: Watcher) -> tuple[Outcome, ...]:
    """Every baseline's outcome; those that an earlier start has measured are read."""
    settings, study = prepared.settings, prepared.study
    holdings = [
        prepared.grid.at(name, partial(Holding.of, study))
        for name in sorted(prepared.hospitals.sites)
    ]
    planned = plan_baselines(
        study,
        holdings,
        seed=settings.seed,
        test=prepared.test,
        rate=settings.baseline_rate,
        initial=load_initial(study, settings.study.parent),
    )
    folder = settings.run / BASELINES
    rate = study.training.learning_rate * settings.baseline_rate
    known = {each.name: _known(folder / f"{each.name}.json", rate) for each in planned}

    def done(found: Outcome) -> None:
        name = file_name(found.kind, found.site)
        write_atomic(folder / f"{name}.json", found.model_dump_json().encode())
        known[name] = found
        watcher.baseline_done(found)

    missing = [each for each in planned if known[each.name] is None]
    with watcher.phase("baselines", len(missing)):
        run_baselines(missing, processes=settings.processes, done=done)
    return tuple(found for each in planned if (found := known[each.name]) is not None)


def _known(path: Path, rate: float) -> Outcome | None:
    """The outcome in a file, if there is one and it was trained at this learning rate."""
    if not path.exists():
        return None
    found = Outcome.model_validate_json(path.read_bytes())
    # --baseline-rate may differ from the earlier start's.
    return found if found.learning_rate == rate else None
