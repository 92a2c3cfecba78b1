"""All sites in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import client.app
from client.site import Site
from common.wire.flower import context
from simulations.grids.grid import SimulationGrid, SiteDescription, Tap
from simulations.grids.in_process import RUN_ID, LocalGrid

if TYPE_CHECKING:
    from flwr.serverapp import Grid

T = TypeVar("T")


class LocalSites(SimulationGrid):
    """The sites of a simulation, in this process."""

    def __init__(self, sites: Sequence[SiteDescription]) -> None:
        self._described = {each.name: each for each in sites}
        self._open: dict[str, Site] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        """Open them all; where one cannot be opened, none stays open."""
        with ExitStack() as opening:
            for name, each in self._described.items():
                self._open[name] = opening.enter_context(each.open())
            self._closing = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close them all."""
        self._closing.close()

    def at(self, name: str, work: Callable[[Site], T]) -> T:
        """What a function gives for an open site."""
        return work(self._open[name])

    def reach(self, tap: Tap | None, order: Sequence[str] | None) -> Grid:
        """A grid that runs the deployment's ``ClientApp`` for each site in turn."""
        app = client.app.build(
            {str(each.file): self._open[name] for name, each in self._described.items()}
        )
        nodes = {}
        # Node 0 is the coordinator. No result depends on the ids.
        for number, name in enumerate(sorted(self._described), start=1):
            each = self._described[name]
            config = {
                "site": str(each.file),
                "state": str(each.state),
                "known-seed": str(each.seed),
            }
            nodes[number] = (name, context(RUN_ID, number, node=config, run={}))
        return LocalGrid(tap(app) if tap else app, nodes, order=order)
