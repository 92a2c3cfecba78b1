"""A whole study in this process: the deployment's two apps over a grid that lives here.

Check everything, open the hospitals, run the coordinator's ``ServerApp`` against the sites'
``ClientApp``, measure the last weights on the kept-apart test set, train the baselines,
write the result and the report. Resuming is the same path: what is on disk is gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

import client.app
import server.app
from client.data.cohort import Cohort
from client.site import Site, open_site
from common import checkpoint
from common.documents import read_json
from common.files import canonical_json, write_atomic
from common.wire.flower import context
from common.plan import Plan
from common.study.study_file import Study, load_study
from server.study import plans as round_zero
from server.study.roster import Member, Roster
from server.study.rounds import shared_weights
from simulations.runs import summary
from simulations.hospitals.archives import Hospitals, read_hospitals
from simulations.runs.baselines import Holding, plan_baselines, run_baselines
from simulations.runs.preflight import check_study
from simulations.runs.curve import Curve
from simulations.grids.in_process import RUN_ID, Client, LocalGrid
from simulations.runs.run_settings import (
    STUDY,
    Clock,
    RunOrder,
    Watcher,
    check_folder,
    check_order,
    check_record,
    nothing_left_behind,
    recorded_in,
    write_record,
)
from simulations.runs.reading import ReadingProgress
from simulations.reports.report import write_report
from simulations.reports.result import CurvePoint, Outcome, Result, write_result
from simulations.runs.testset import TestSet, curve_point, load_test_set, outcome

ROSTER: Final = "roster.json"
CURVE: Final = "curve.json"
BASELINES: Final = "baselines"
TEST: Final = "test"

Tap = Callable[[Client], Client]
"""What passes on everything between coordinator and sites, and may listen: an auditor does."""


def untapped(client: Client) -> Client:
    """Nobody listens."""
    return client


@dataclass(frozen=True)
class Prepared:
    """What a run works with once everything was read and found right."""

    order: RunOrder
    study: Study
    hospitals: Hospitals
    sites: Mapping[str, Site]
    test: TestSet

    def cohort(self, site: str) -> Cohort:
        """A hospital's patients; read once."""
        return self.sites[site].cohorts.read(self.study)


def run_study(order: RunOrder, watcher: Watcher | None = None, *, tap: Tap = untapped) -> Result:
    """Run a study to its end and write result and report.

    Args:
        order: what is asked for.
        watcher: told how far the run is.
        tap: put between coordinator and sites.

    Raises:
        ConsiliumError: something a person can mend. Before the first round a new run leaves
            nothing behind; later what is on disk is whole and can be gone on with.
    """
    watcher, clock = watcher or Watcher(), Clock()
    check_folder(order)
    study, hospitals = load_study(order.study), read_hospitals(order.hospitals)
    check_study(study, hospitals)
    check_order(order, hospitals)
    check_record(order, study, hospitals)
    with ExitStack() as stack:
        with nothing_left_behind(order), clock.time("decode"):
            write_record(order, study, hospitals)
            prepared = _prepare(order, study, hospitals, stack, watcher)
        with clock.time("rounds"), watcher.phase("rounds", study.training.rounds):
            curve = _federate(prepared, watcher, tap)
        with clock.time("baselines"):
            found = _baselines(prepared, watcher) if order.baselines else ()
        result = _conclude(prepared, curve, found, clock)
    with clock.time("report"):
        write_report(order.run, result)
    result = result.model_copy(update={"seconds": dict(clock.seconds)})
    write_result(order.run, result)
    return result


def _prepare(
    order: RunOrder, study: Study, hospitals: Hospitals, stack: ExitStack, watcher: Watcher
) -> Prepared:
    """Open every site and decode every image, so that nothing is found wrong later."""
    folders = {name: hospitals.folder / name for name in hospitals.sites}
    reading = ReadingProgress({**folders, TEST: hospitals.test_images.parent})
    sites, recorded = {}, {} if order.like is None else recorded_in(order.like, hospitals)
    with watcher.progress("reading the hospitals", reading.total, unit="steps") as job:
        for name in hospitals.sites:
            state = order.run / "sites" / name
            site = stack.enter_context(open_site(hospitals.site_file(name), state, order.seed))
            site.cohorts.workers = order.processes
            site.measured.recorded = recorded.get(name)
            if order.threads is not None:
                device = site.file.device.model_copy(update={"threads": order.threads})
                site.file = site.file.model_copy(update={"device": device})
            with reading.of(name, job) as progress:
                site.cohorts.read(study, progress)
            sites[name] = site
        with reading.of(TEST, job) as progress:
            test = load_test_set(
                study,
                hospitals,
                seed=order.seed,
                cache=order.run / TEST / "cache",
                workers=order.processes,
                progress=progress,
            )
    return Prepared(order, study, hospitals, sites, test)


def _federate(prepared: Prepared, watcher: Watcher, tap: Tap) -> Curve:
    """Run the study itself, and see its weights after each round."""
    order, study, sites = prepared.order, prepared.study, prepared.sites

    def measure(weights: npt.NDArray[np.float32], number: int) -> CurvePoint:
        return curve_point(study, weights, prepared.test, number)

    curve = Curve(order.run / CURVE, study.training.rounds, measure)
    _catch_up(prepared, curve)

    def observe(event: str, fields: Mapping[str, Any]) -> None:
        if event == "study.started":
            watcher.resumed(int(fields["round"]))
        if event == "round.completed":
            number = int(fields["round"])
            point = curve.see(number, fields["weights"])
            spent = None if point is None else _most_spent(prepared, number)
            watcher.round_done(number, point, spent)

    write_atomic(order.run / ROSTER, canonical_json(_roster(sites).document))
    opened = {str(prepared.hospitals.site_file(name)): site for name, site in sites.items()}
    app = tap(client.app.build(opened))
    grid = LocalGrid(app, _nodes(prepared), order=order.site_order)
    server.app.build(observe)(grid, context(RUN_ID, 0, node={}, run=_config(order)))
    return curve


def _roster(sites: Mapping[str, Site]) -> Roster:
    """The hospitals; what their site files declare is what is agreed on."""
    return Roster(
        sites={
            name: Member(
                key=site.key.public,
                patients={name: data.declared_patients for name, data in site.file.data.items()},
            )
            for name, site in sites.items()
        }
    )


def _catch_up(prepared: Prepared, curve: Curve) -> None:
    """Measure the round whose checkpoint a crash came right after."""
    state = checkpoint.newest(_coordinator(prepared.order.run) / server.app.CHECKPOINTS)
    if state is not None and state.round:
        curve.see(state.round, shared_weights(prepared.study, state))


def _coordinator(run: Path) -> Path:
    return run / server.app.FOLDER


def _nodes(prepared: Prepared) -> dict[int, tuple[str, Any]]:
    """Each site's context by node id; ids follow from nothing that a result depends on."""
    nodes = {}
    for number, name in enumerate(sorted(prepared.sites), start=1):
        config = {
            "site": str(prepared.hospitals.site_file(name)),
            "state": str(prepared.order.run / "sites" / name),
            "known-seed": str(prepared.order.seed),
        }
        nodes[number] = (name, context(RUN_ID, number, node=config, run={}))
    return nodes


def _config(order: RunOrder) -> dict[str, str]:
    has_begun = (_coordinator(order.run) / round_zero.FILE).exists()
    return {
        "study": str(order.run / STUDY),
        "run": str(order.run),
        "seed": str(order.seed),
        "roster": str(order.run / ROSTER),
        "resume": "1" if has_begun else "0",
    }


def _plans(prepared: Prepared) -> dict[str, Plan]:
    order = prepared.order
    return round_zero.stored(_coordinator(order.run), prepared.study, order.seed) or {}


def _most_spent(prepared: Prepared, rounds: int) -> float | None:
    """The most that training has cost any patient after so many rounds."""
    costs = [summary.spent_after(plan, rounds) for plan in _plans(prepared).values()]
    return max((cost for cost in costs if cost is not None), default=None)


def _baselines(prepared: Prepared, watcher: Watcher) -> tuple[Outcome, ...]:
    """Every baseline's outcome; those that an earlier start has measured are read."""
    order, study = prepared.order, prepared.study
    holdings = [_holding(prepared, name) for name in sorted(prepared.sites)]
    planned = plan_baselines(
        study, holdings, seed=order.seed, test=prepared.test, rate=order.baseline_rate
    )
    folder = order.run / BASELINES
    rate = study.training.learning_rate * order.baseline_rate
    known = {each.name: _known(folder / f"{each.name}.json", rate) for each in planned}

    def done(found: Outcome) -> None:
        name = "-".join([found.kind, *([found.site] if found.site else [])])
        write_atomic(folder / f"{name}.json", found.model_dump_json().encode())
        known[name] = found
        watcher.baseline_done(found)

    missing = [each for each in planned if known[each.name] is None]
    with watcher.phase("baselines", len(missing)):
        run_baselines(missing, processes=order.processes, done=done)
    return tuple(found for each in planned if (found := known[each.name]) is not None)


def _known(path: Path, rate: float) -> Outcome | None:
    if not path.exists():
        return None
    found = Outcome.model_validate_json(path.read_bytes())
    return found if found.learning_rate == rate else None


def _holding(prepared: Prepared, name: str) -> Holding:
    site, cohort = prepared.sites[name], prepared.cohort(name)
    return Holding.of(site.offer(prepared.study), cohort)


def _conclude(prepared: Prepared, curve: Curve, found: tuple[Outcome, ...], clock: Clock) -> Result:
    """The result, from what the coordinator published and what was measured."""
    folder = _coordinator(prepared.order.run)
    weights = safetensors.numpy.load_file(folder / "final.safetensors")["weights"]
    published = read_json((folder / "outcome.json").read_bytes())
    plans = _plans(prepared)
    costs = [summary.bound(plan) for plan in plans.values()]
    epsilon = None if None in costs else max(cost for cost in costs if cost is not None)
    shared = outcome("shared", prepared.study, weights, prepared.test, epsilon=epsilon)
    return summary.summarise(
        study=prepared.study,
        hospitals=prepared.hospitals,
        plans=plans,
        published=published,
        shared=shared.model_copy(update={"curve": curve.points}),
        baselines=found,
        seed=prepared.order.seed,
        seconds=clock.seconds,
        command=prepared.order.command,
    )
