"""What a simulation's grid is: it opens sites from their descriptions and reaches them.

A description says all that a site is opened with and can be sent to another process. Nothing
changes a site once it is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from client.site import Site, open_site
from common.numerics import NumericsRecord
from common.wire.flower import Context, Message

if TYPE_CHECKING:
    from flwr.serverapp import Grid

T = TypeVar("T")
Client = Callable[[Message, Context], Message]
Tap = Callable[[Client], Client]
"""What passes on everything between coordinator and sites, and may listen: an auditor does."""


@dataclass(frozen=True)
class SiteDescription:
    """How a site of a simulation is opened.

    Attributes:
        name: of the site.
        file: its site file.
        state: folder of what outlives the process.
        seed: of the run, which all keys follow from.
        threads: of torch, in place of those of the site file.
        workers: processes that decode images.
        recorded: of a run that is repeated: the site offers this record and measures none.
    """

    name: str
    file: Path
    state: Path
    seed: int
    threads: int | None = None
    workers: int | None = None
    recorded: NumericsRecord | None = None

    def open(self) -> Site:
        """Open the site.

        Raises:
            SiteError: the site file or the state cannot be used.
        """
        return open_site(
            self.file,
            self.state,
            self.seed,
            threads=self.threads,
            workers=self.workers,
            recorded=self.recorded,
        )


class SimulationGrid(AbstractContextManager["SimulationGrid"], ABC):
    """Where a simulation's sites are; they are open while it is entered.

    Args:
        sites: what to open.
    """

    @abstractmethod
    def __init__(self, sites: Sequence[SiteDescription]) -> None: ...

    @abstractmethod
    def at(self, name: str, work: Callable[[Site], T]) -> T:
        """What a function of an open site gives where that site is."""

    @abstractmethod
    def reach(self, tap: Tap | None, order: Sequence[str] | None) -> Grid:
        """What a coordinator reaches the sites by.

        Args:
            tap: put between coordinator and sites.
            order: names of all sites in the order in which they are asked; no result depends
                on it.
        """
