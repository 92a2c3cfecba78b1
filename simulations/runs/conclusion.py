"""What a run ends with: the result, and the model package with the figures of the test set."""

from __future__ import annotations

from functools import partial

import safetensors.numpy

from common.documents import read_json
from simulations.own_code import strategy_note
from simulations.reports.packing import package_written
from simulations.reports.result import Outcome, Result
from simulations.runs import summary
from simulations.runs.curve import Curve
from simulations.runs.examples import Looked
from simulations.runs.federation import stored_plans
from simulations.runs.prepare import Prepared
from simulations.runs.run_settings import Clock, coordinator_folder
from simulations.runs.testset import figure_at, outcome, scored


def conclude(
    prepared: Prepared, curve: Curve, compared: tuple[Outcome, ...], clock: Clock
) -> Result:
    """The result, from what the coordinator published and what was measured."""
    folder = coordinator_folder(prepared.settings.run)
    # What a coordinator hands out is measured, not what this process still holds.
    weights = safetensors.numpy.load_file(folder / "final.safetensors")["weights"]
    plans = stored_plans(prepared)
    costs = [summary.bound(plan) for plan in plans.values()]
    epsilon = None if None in costs else max(cost for cost in costs if cost is not None)
    study, test = prepared.study, prepared.test
    looked = Looked(test)
    given = looked.at(scored(study, weights, test))
    sites = sorted(prepared.hospitals.sites)
    fared = [(name, prepared.grid.at(name, partial(figure_at, study, weights))) for name in sites]
    shared = outcome("shared", study, weights, test, epsilon=epsilon, given=given)
    looked.keep(prepared.settings.run, shared.each.get(study.task.headline, ()))
    settings, told = prepared.settings, tuple[str, ...]()
    published = read_json((folder / "outcome.json").read_bytes())
    if settings.strategy:
        told = (*told, strategy_note(settings.strategy))
    if settings.participation is not None:
        told = (*told, settings.participation.note)
        # Who was away by that is said once, not for each of a thousand hospitals.
        published = published | {"absences": []}
    notes = (*prepared.notes, *told)
    if settings.package:
        made = package_written(
            study, plans, settings.seed, shared, folder=folder, run=settings.run, notes=told
        )
        notes = (*notes, *made)
    return summary.summarise(
        study=prepared.study,
        hospitals=prepared.hospitals,
        plans=plans,
        published=published,
        shared=shared.model_copy(update={"curve": curve.points}),
        baselines=compared,
        seed=prepared.settings.seed,
        seconds=clock.seconds,
        command=prepared.settings.command,
        notes=notes,
        records="disk" if settings.keep_records else "memory",
        at_sites={name: each for name, each in fared if each is not None},
    )
