"""Sites in processes of this machine, each process with its own part of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from simulations.grids.grid import HERE, GridSettings, SimulationGrid, SiteDescription, Tap
from simulations.grids.hosting import KEPT, OpenSites
from simulations.grids.remote import Crew, Factory, RemoteGrid, dealt

if TYPE_CHECKING:
    from flwr.serverapp import Grid


class RemoteSites(SimulationGrid):
    """The sites of a simulation, in other processes than the coordinator."""

    def __init__(self, sites: Sequence[SiteDescription], settings: GridSettings = HERE) -> None:
        super().__init__(sites, settings)
        self._workers = max(1, min(settings.workers, len(sites)))

    def whole(self, tap: Tap | None, order: Sequence[str] | None) -> Grid:
        """A grid that runs the deployment's ``ClientApp`` for each site where the site is.

        Raises:
            ValueError: a tap was given, which can hear this process alone.
        """
        if tap is not None:
            raise ValueError("what listens has to be in the same process as the sites")
        worker_of = dealt(sorted(self.described), self._workers)
        parts = [
            [each for name, each in self.described.items() if worker_of[name] == number]
            for number in range(self._workers)
        ]
        crew = self.crew([partial(OpenSites, tuple(part)) for part in parts])
        self._closing.callback(crew.close)
        return RemoteGrid(self.nodes, crew, self._workers, kept=KEPT, order=order)

    def crew(self, programs: Sequence[Factory]) -> Crew:
        """The workers."""
        raise NotImplementedError


class PoolSites(RemoteSites):
    """In processes of this machine."""

    def crew(self, programs: Sequence[Factory]) -> Crew:
        """Processes."""
        from simulations.grids.workers import ProcessCrew

        return ProcessCrew(programs)
