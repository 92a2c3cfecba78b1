"""The model package of a simulation: the coordinator's, with the figures of the test set.

It is signed with a key that follows from the seed: everybody knows it, and the package says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common import checkpoint
from common.files import write_atomic
from common.package.statement import FigureSet
from common.plan import Plan
from common.privacy.randomness import known_secret
from common.wire.signing import SigningKey
from server.app import CHECKPOINTS
from server.study.packaging import FILE, make
from simulations.reports.result import Outcome
from simulations.runs.federation import coordinator_folder
from simulations.runs.prepare import Prepared

_NOTE: Final = "FROM A SIMULATION: signed with a key that everybody knows"


def write_package(prepared: Prepared, plans: Mapping[str, Plan], shared: Outcome) -> Path:
    """Write ``model.consilium`` into the run's folder."""
    settings, study, metrics = prepared.settings, prepared.study, shared.metrics
    folder = coordinator_folder(settings.run) / CHECKPOINTS
    state = checkpoint.newest(folder)
    assert state is not None, "the rounds are over"
    tested = FigureSet(
        on="test set",
        patients=metrics.patients,
        headline=metrics.headline,
        figures=metrics.figures,
        of=metrics.of,
    )
    made = make(
        study,
        plans,
        state,
        folder,
        SigningKey(known_secret(settings.seed, "coordinator", "package")),
        figures=(tested,),
        doubts=(_NOTE, *shared.doubts),
    )
    path = settings.run / FILE
    write_atomic(path, made)
    return path
