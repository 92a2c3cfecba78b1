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
    work = partial(_figure, prepared.study, weights)
    found = {name: prepared.grid.at(name, work) for name in sorted(prepared.hospitals.sites)}
    return {name: each for name, each in found.items() if each is not None}


def _figure(study: Study, weights: npt.NDArray[np.float32], site: Site) -> SiteFigure | None:
    held = TestSet.of_part(site.cohorts.read(study), "validation")
    if not held.patients:
        return None
    value = study.task.exact(scored(study, weights, held)).values[study.task.headline]
    return SiteFigure(patients=len(held.patients), figure=Figure.of(value))
