"""How the shared model does at each hospital: what differs among them is what fairness is about.

The figures are exact, of each hospital's validation patients. A hospital sends no such figure
without noise, so only a simulation has them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from client.site import Site
from common.package.statement import Figure
from common.study.study_file import Study
from simulations.reports.result import SiteFigure
from simulations.runs.prepare import Prepared
from simulations.runs.testset import TestSet, scored


def figures_at_sites(prepared: Prepared, weights: npt.NDArray[np.float32]) -> dict[str, SiteFigure]:
    """The headline figure at each hospital that has validation patients.

    Args:
        prepared: the run.
        weights: flat float32.
    """
    work = partial(figure_at, prepared.study, weights)
    found = {name: prepared.grid.at(name, work) for name in sorted(prepared.hospitals.sites)}
    return {name: each for name, each in found.items() if each is not None}


def figure_at(study: Study, weights: npt.NDArray[np.float32], site: Site) -> SiteFigure | None:
    """That of one hospital; None where it has no validation patient."""
    cohort = site.cohorts.read(study)
    if not cohort.part("validation"):
        return None
    held = TestSet.of_part(cohort, "validation")
    value = study.task.exact(scored(study, weights, held)).values[study.task.headline]
    return SiteFigure(patients=len(held.patients), figure=Figure.of(value))
