"""The rounds of a run: the deployment's two Flower apps, over a grid in this process.

The coordinator's ``ServerApp`` and the sites' ``ClientApp`` are those of a deployment; only the
grid between them is a simulation's own. Resuming is the same path as starting: the coordinator
continues after its newest checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import server.app
from client.site import Site
from common import checkpoint
from common.files import canonical_json, write_atomic
from common.plan import Plan
from common.wire.flower import context
from server.study import round_zero
from server.study.rounds import shared_weights
from server.study.simulation_roster import Member, Roster
from simulations.grids.grid import Tap as Tap  # noqa: PLC0414 - a run passes one on
from simulations.grids.in_process import RUN_ID
from simulations.runs import summary
from simulations.runs.curve import Curve
from simulations.runs.prepare import Prepared
from simulations.runs.run_settings import STUDY, RunSettings, Watcher

ROSTER: Final = "roster.json"


def federate(prepared: Prepared, curve: Curve, watcher: Watcher, tap: Tap | None) -> None:
    """Run the rounds to the study's end; the curve sees the weights after each of them."""
    # Before the rounds: the coordinator starts after that checkpoint and never shows it again.
    _catch_up(prepared, curve)

    def observe(event: str, fields: Mapping[str, Any]) -> None:
        if event == "study.started":
            watcher.resumed(int(fields["round"]))
        if event == "round.completed":
            number = int(fields["round"])
            point = curve.see(number, fields["weights"])
            spent = None if point is None else _most_spent(prepared, number)
            watcher.round_done(number, point, spent)

    settings = prepared.settings
    write_atomic(settings.run / ROSTER, canonical_json(_roster(prepared).document))
    grid = prepared.grid.reach(tap, settings.site_order)
    server.app.build(observe)(grid, context(RUN_ID, 0, node={}, run=_config(settings)))


def coordinator_folder(run: Path) -> Path:
    """Where the coordinator of a run keeps plans, checkpoints and what it published."""
    return run / server.app.FOLDER


def stored_plans(prepared: Prepared) -> dict[str, Plan]:
    """The plans that the coordinator has made, by site; none before it has."""
    settings = prepared.settings
    return round_zero.stored(coordinator_folder(settings.run), prepared.study, settings.seed) or {}


def _catch_up(prepared: Prepared, curve: Curve) -> None:
    """Measure the round whose checkpoint a crash came right after."""
    folder = coordinator_folder(prepared.settings.run) / server.app.CHECKPOINTS
    state = checkpoint.newest(folder)
    if state is not None and state.round:
        curve.see(state.round, shared_weights(prepared.study, state))


def _most_spent(prepared: Prepared, rounds: int) -> float | None:
    """The most that training has cost any patient after this many rounds."""
    costs = [summary.spent_after(plan, rounds) for plan in stored_plans(prepared).values()]
    return max((cost for cost in costs if cost is not None), default=None)


def _roster(prepared: Prepared) -> Roster:
    """The hospitals; what their site files declare is what is agreed on."""
    return Roster(
        sites={name: prepared.grid.at(name, _member) for name in prepared.hospitals.sites}
    )


def _member(site: Site) -> Member:
    patients = {name: data.declared_patients for name, data in site.file.data.items()}
    return Member(key=site.key.public, patients=patients)


def _config(settings: RunSettings) -> dict[str, str]:
    # Plans are stored before any site is asked: without them nothing has begun.
    has_begun = (coordinator_folder(settings.run) / round_zero.FILE).exists()
    return {
        "study": str(settings.run / STUDY),
        "run": str(settings.run),
        "seed": str(settings.seed),
        "roster": str(settings.run / ROSTER),
        "resume": "1" if has_begun else "0",
    }
