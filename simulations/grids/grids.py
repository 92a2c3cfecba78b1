"""Every grid of a simulation: a closed list, and which one a run takes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from simulations.grids.grid import SimulationGrid
from simulations.grids.local import LocalSites
from simulations.grids.pool import PoolSites

if TYPE_CHECKING:
    from common.study.study_file import Study

GridName = Literal["process", "pool", "ray"]
WORTH: Final = 4000
"""Steps of all sites together from which processes save more time than starting them takes."""


def grid_of(name: GridName) -> type[SimulationGrid]:
    """A grid by its name."""
    if name == "ray":
        from simulations.grids.on_ray import RaySites  # it alone knows Ray

        return RaySites
    return {"process": LocalSites, "pool": PoolSites}[name]


def chosen(study: Study, sites: int, workers: int) -> GridName:
    """The grid that suits a run; whichever it is, the result has the same bits.

    Args:
        study: what is run.
        sites: how many.
        workers: processes that may be started.
    """
    steps = sites * study.training.rounds * study.training.local_steps
    return "pool" if workers > 1 and sites > 1 and steps >= WORTH else "process"
