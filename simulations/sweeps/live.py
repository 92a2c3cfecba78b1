"""How a sweep goes, on a terminal: a row for each setting, and the time that is left."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.documents import read_json
from simulations.sweeps.cells import Cell
from simulations.sweeps.compare import settings_said
from simulations.sweeps.records import Record
from simulations.sweeps.sweep import Told

MOST_ROWS: Final = 30
"""Settings that are shown at once: the newest."""


class LiveTable(Told, AbstractContextManager["LiveTable"]):
    """Shows a sweep while it is entered; where there is no terminal, a line for each run.

    Args:
        console: to show it on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None
        self._runs, self._known, self._made, self._failed = 0, 0, 0, 0
        self._began = time.monotonic()
        self._reached: defaultdict[str, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show how it ended."""
        if self._live:
            self._live.stop()

    def begin(self, runs: int) -> None:
        """So many runs there are in all."""
        self._runs, self._began = runs, time.monotonic()
        self._show("each run is a line when it is done")

    def known(self, record: Record) -> None:
        """A run was done before."""
        self._known += 1
        self._reached[_said(record.settings)].append(record.reached)
        self._show("")

    def done(self, record: Record) -> None:
        """A run is done."""
        self._made += 1
        self._reached[_said(record.settings)].append(record.reached)
        said = _said(record.settings)
        self._show(f"{said}, seed {record.seed}: {record.headline} {record.reached:.3f}")

    def failed(self, cell: Cell, why: str) -> None:
        """A run could not be finished."""
        self._failed += 1
        told = why.splitlines()[0] if why else "no reason"
        self._show(f"{_said(json.dumps(dict(cell.settings)))}, seed {cell.seed}: failed: {told}")

    @property
    def state(self) -> str:
        """How far it is, in words."""
        done = self._known + self._made + self._failed
        said = f"{done} of {self._runs} runs"
        if self._failed:
            said += f", {self._failed} failed"
        made = self._made + self._failed
        if made and done < self._runs:
            left = (time.monotonic() - self._began) / made * (self._runs - done)
            said += f", {_in_words(left)} left"
        return said

    def _show(self, line: str) -> None:
        if self._live:
            self._live.update(self._table())
        elif line:
            self._console.print(f"{self.state}: {line}", markup=False, highlight=False)

    def _table(self) -> Table:
        table = Table(title=self.state, title_justify="left", box=None, pad_edge=False)
        for name in ("settings", "seeds done", "mean so far"):
            table.add_column(name)
        for said, reached in list(self._reached.items())[-MOST_ROWS:]:
            table.add_row(said, str(len(reached)), f"{sum(reached) / len(reached):.3f}")
        return table


def _said(settings: str) -> str:
    return settings_said(read_json(settings)) or "as it is"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
