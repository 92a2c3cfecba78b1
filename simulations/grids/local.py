"""All sites in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from client.site import Site
from common.wire.flower import context
from simulations.grids.grid import HERE, GridSettings, SimulationGrid, SiteDescription, Tap
from simulations.grids.hosting import OpenSites
from simulations.grids.in_process import LocalGrid
from simulations.grids.nodes import RUN_ID

if TYPE_CHECKING:
    from flwr.serverapp import Grid

T = TypeVar("T")


class LocalSites(SimulationGrid):
    """The sites of a simulation, in this process."""

    def __init__(self, sites: Sequence[SiteDescription], settings: GridSettings = HERE) -> None:
        super().__init__(sites, settings)
        self._sites = OpenSites(sites)
        self._closing.callback(self._sites.close)

    def at(self, name: str, work: Callable[[Site], T]) -> T:
        """What a function gives for an open site, which stays open."""
        return work(self._sites.site(name))

    def whole(self, tap: Tap | None, order: Sequence[str] | None) -> Grid:
        """A grid that runs the deployment's ``ClientApp`` for each site in turn."""
        app = self._sites.client
        # Node 0 is the coordinator. No result depends on the ids.
        nodes = {
            number: (name, context(RUN_ID, number, node={"site": name}, run={}))
            for number, name in self.nodes.items()
        }
        return LocalGrid(tap(app) if tap else app, nodes, order=order)
