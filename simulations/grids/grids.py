"""Every grid of a simulation: a closed list."""

from __future__ import annotations

from typing import Final

from simulations.grids.grid import SimulationGrid
from simulations.grids.local import LocalSites

GRIDS: Final[dict[str, type[SimulationGrid]]] = {"local": LocalSites}
