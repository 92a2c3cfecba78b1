"""The model package of a simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from common.errors import PackageError
from common.files import write_atomic
from common.package.statement import FigureSet
from common.plan import Plan
from common.privacy.randomness import known_secret
from common.study.study_file import Study
from common.wire.signing import SigningKey
from server.packaging import FILE, make
from simulations.reports.result import Outcome

_NOTE: Final = "FROM A SIMULATION: signed with a key that everybody knows"


def package_written(
    study: Study,
    plans: Mapping[str, Plan],
    seed: int,
    shared: Outcome,
    *,
    folder: Path,
    run: Path,
    notes: Sequence[str] = (),
) -> tuple[str, ...]:
    """Write the model package into the run's folder; says so where it cannot be made.

    It is signed with a key that follows from the seed: everybody knows it, and it says so.

    Args:
        study: what was learned.
        plans: of the sites.
        seed: of the run.
        shared: the shared model's figures on the test set.
        folder: where the coordinator of the run keeps the study.
        run: where the package is written.
        notes: what else a reader of the package must know first.
    """
    tested = FigureSet(
        on="test set",
        patients=shared.metrics.patients,
        headline=shared.metrics.headline,
        figures=shared.metrics.figures,
        of=shared.metrics.of,
    )
    try:
        made = make(
            study,
            plans,
            folder,
            SigningKey(known_secret(seed, "coordinator", "package")),
            figures=(tested,),
            doubts=(_NOTE, *notes, *shared.doubts),
        )
    except PackageError as error:  # what was computed for hours is told all the same
        return (f"the model package was not made: {error.what} ({error.details.get('found')})",)
    write_atomic(run / FILE, made)
    return ()
