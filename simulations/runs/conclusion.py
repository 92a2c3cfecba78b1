"""What a run ends with: the result, and the model package with the figures of the test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import safetensors.numpy

from common.documents import read_json
from common.errors import PackageError
from common.files import write_atomic
from common.package.statement import FigureSet
from common.plan import Plan
from common.privacy.randomness import known_secret
from common.wire.signing import SigningKey
from server.packaging import FILE, make
from simulations.reports.result import Outcome, Result
from simulations.runs import summary
from simulations.runs.curve import Curve
from simulations.runs.examples import Looked
from simulations.runs.federation import coordinator_folder, stored_plans
from simulations.runs.prepare import Prepared
from simulations.runs.run_settings import Clock
from simulations.runs.testset import outcome, scored

_NOTE: Final = "FROM A SIMULATION: signed with a key that everybody knows"


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
    shared = outcome("shared", study, weights, test, epsilon=epsilon, given=given)
    looked.keep(prepared.settings.run, shared.each.get(study.task.headline, ()))
    notes = prepared.notes
    if prepared.settings.package:
        notes = (*notes, *_package_written(prepared, plans, shared))
    return summary.summarise(
        study=prepared.study,
        hospitals=prepared.hospitals,
        plans=plans,
        published=read_json((folder / "outcome.json").read_bytes()),
        shared=shared.model_copy(update={"curve": curve.points}),
        baselines=compared,
        seed=prepared.settings.seed,
        seconds=clock.seconds,
        command=prepared.settings.command,
        notes=notes,
    )


def _package_written(
    prepared: Prepared, plans: Mapping[str, Plan], shared: Outcome
) -> tuple[str, ...]:
    """Write the model package into the run's folder; says so where it cannot be made.

    It is signed with a key that follows from the seed: everybody knows it, and it says so.
    """
    settings, metrics = prepared.settings, shared.metrics
    tested = FigureSet(
        on="test set",
        patients=metrics.patients,
        headline=metrics.headline,
        figures=metrics.figures,
        of=metrics.of,
    )
    try:
        made = make(
            prepared.study,
            plans,
            coordinator_folder(settings.run),
            SigningKey(known_secret(settings.seed, "coordinator", "package")),
            figures=(tested,),
            doubts=(_NOTE, *shared.doubts),
        )
    except PackageError as error:  # what was computed for hours is told all the same
        return (f"the model package was not made: {error.what} ({error.details.get('found')})",)
    write_atomic(settings.run / FILE, made)
    return ()
