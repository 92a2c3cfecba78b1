"""The rounds of a run: the deployment's two Flower apps, over a grid in this process.

The coordinator's ``ServerApp`` and the sites' ``ClientApp`` are those of a deployment; only the
grid between them is a simulation's own. Resuming is the same path as starting: the coordinator
continues after its newest checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import server.app
from common import checkpoint
from common.files import canonical_json, write_atomic
from common.plan import Plan
from common.privacy.mechanisms import Mechanism
from common.wire.flower import context
from server.study import round_zero
from server.study.rounds import OwnStep, shared_weights
from simulations.archives.roster import roster
from simulations.grids.grid import Tap as Tap  # noqa: PLC0414 - a run passes one on
from simulations.grids.nodes import RUN_ID
from simulations.runs import summary
from simulations.runs.curve import Curve
from simulations.runs.prepare import Prepared
from simulations.runs.run_settings import STUDY, RunSettings, Watcher, coordinator_folder

ROSTER: Final = "roster.json"


def federate(
    prepared: Prepared,
    curve: Curve,
    watcher: Watcher,
    tap: Tap | None,
    own: OwnStep | None = None,
) -> None:
    """Run the rounds to the study's end; the curve sees the weights after each of them."""
    # Before the rounds: the coordinator starts after that checkpoint and never shows it again.
    _catch_up(prepared, curve)

    study, mechanisms = prepared.study, set[Mechanism]()

    def observe(event: str, fields: Mapping[str, Any]) -> None:
        if event == "study.started":
            watcher.resumed(int(fields["round"]))
            mechanisms.update(plan.mechanism for plan in stored_plans(prepared).values())
        if event == "round.completed":
            number = int(fields["round"])
            point = curve.see(number, fields["weights"])
            spent = None if point is None else summary.most_spent(mechanisms, study, number)
            watcher.round_done(number, point, spent)

    settings = prepared.settings
    write_atomic(
        settings.run / ROSTER, canonical_json(roster(prepared.hospitals, settings.seed).document)
    )
    grid = prepared.grid.reach(tap, settings.site_order)
    server.app.build(observe, own)(grid, context(RUN_ID, 0, node={}, run=_config(settings)))


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
