"""What a simulation's grid is: it opens sites from their descriptions and reaches them.

A description says all that a site is opened with and can be sent to another process. Nothing
changes a site once it is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from client.cohorts import Cohorts
from client.site import Reader, Site, open_site
from common.numerics import NumericsRecord
from common.plan import Plan
from common.wire.flower import Context, Message
from common.wire.messages import LedgerHead
from simulations.archives.arrays import ArrayCohorts, ArrayRows
from simulations.archives.decoded import DecodedFolder, reader
from simulations.grids.participation import PartialGrid, Participation

if TYPE_CHECKING:
    from flwr.serverapp import Grid

T = TypeVar("T")
Client = Callable[[Message, Context], Message]
Tap = Callable[[Client], Client]
"""What passes on everything between coordinator and sites, and may listen: an auditor does."""


@dataclass(frozen=True)
class Earlier:
    """What the coordinator's checkpoint says of a site whose records ended with a process.

    Attributes:
        plan: of the site.
        head: the newest head of its ledger that the coordinator has seen.
        trained: the last round of training that is over; 0 for none.
        evaluated: the round of the last evaluation; -1 for none.
    """

    plan: Plan
    head: LedgerHead
    trained: int
    evaluated: int

    def bring(self, site: Site) -> None:
        """Bring a newly opened site to where it was; all else follows from its keys."""
        site.ledger.go_on(self.plan, self.head, self.trained, self.evaluated)


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
        rows: its patients, where hospitals are arrays.
        decoded: where what was read of all hospitals is kept for the next run; None to keep it in
            the state folder, as a hospital does.
        keeps_records: whether its ledger and audit log are on disk, as a hospital's are.
        earlier: what a run that goes on knows of it, where its records ended with a process.
    """

    name: str
    file: Path
    state: Path
    seed: int
    threads: int | None = None
    workers: int | None = None
    recorded: NumericsRecord | None = None
    rows: ArrayRows | None = None
    decoded: Path | None = None
    keeps_records: bool = False
    earlier: Earlier | None = None

    def open(self) -> Site:
        """Open the site.

        Raises:
            SiteError: the site file or the state cannot be used.
        """
        site = open_site(
            self.file,
            self.state,
            self.seed,
            threads=self.threads,
            workers=self.workers,
            recorded=self.recorded,
            in_memory=not self.keeps_records,
            reader=self._reader(),
        )
        if self.earlier is not None and not self.keeps_records:
            self.earlier.bring(site)
        return site

    def _reader(self) -> Reader:
        if self.rows is not None:
            return ArrayCohorts.of_part(self.rows)
        if self.decoded is not None:
            return reader(DecodedFolder.of(self.decoded, self.name))
        return Cohorts


@dataclass(frozen=True)
class GridSettings:
    """Where sites are computed.

    Attributes:
        workers: processes, where there are several.
        ray_address: of a Ray cluster; None starts one on this machine.
        gpus: of each of Ray's workers; less than 1 shares a card.
        participation: which sites take part in a round; None for all in each.
        seed: of the run, which participation is drawn from.
    """

    workers: int = 1
    ray_address: str | None = None
    gpus: float = 0.0
    participation: Participation | None = None
    seed: int = 0


HERE: Final = GridSettings()


class SimulationGrid(AbstractContextManager["SimulationGrid"], ABC):
    """Where a simulation's sites are; they are open while it is entered.

    Args:
        sites: what to open.
        settings: where.

    Attributes:
        described: how each site is opened, by its name.
        nodes: the name of each site's node, by the node's id.
    """

    def __init__(self, sites: Sequence[SiteDescription], settings: GridSettings = HERE) -> None:
        self.described = {each.name: each for each in sites}
        self.settings = settings
        # Node 0 is the coordinator. No result depends on the ids.
        self.nodes = dict(enumerate(sorted(self.described), start=1))
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        """Nothing is opened or started yet: a site is when it is first asked."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all sites and end all workers."""
        self._closing.close()

    def at(self, name: str, work: Callable[[Site], T]) -> T:
        """What a function gives for an open site, in this process."""
        with self.described[name].open() as site:
            return work(site)

    def reach(self, tap: Tap | None, order: Sequence[str] | None) -> Grid:
        """What a coordinator reaches the sites by.

        Args:
            tap: put between coordinator and sites.
            order: names of all sites in the order in which they are asked; no result depends
                on it.
        """
        whole, settings = self.whole(tap, order), self.settings
        if settings.participation is None:
            return whole
        return PartialGrid(whole, settings.participation, settings.seed)

    @abstractmethod
    def whole(self, tap: Tap | None, order: Sequence[str] | None) -> Grid:
        """The same, as if all sites took part in each round."""
