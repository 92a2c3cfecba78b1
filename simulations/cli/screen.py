"""What a run shows on a terminal: its progress, and at the end one screen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from common.process.console import ProgressJob, progress
from server.packaging import FILE as PACKAGE
from simulations.reports import report
from simulations.reports.result import CurvePoint, Outcome, Result
from simulations.runs.run_settings import Watcher

MOST_NAMES = 8
"""Hospitals that are named."""
UNITS = {"rounds": "rounds", "baselines": "models"}
DESCRIPTIONS = {"rounds": "training together", "baselines": "training the baselines"}


class Screen(Watcher):
    """Shows a run's progress: a bar on a terminal, plain lines elsewhere."""

    progress = staticmethod(progress)

    def __init__(self) -> None:
        self._job: ProgressJob | None = None
        self._figure = ""

    def begin(self, figure: str) -> None:
        """Remember what is measured."""
        self._figure = figure

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[None]:
        """A bar for each part of the run."""
        if not total:
            yield
            return
        with progress(DESCRIPTIONS[name], total, unit=UNITS[name]) as self._job:
            yield
        self._job = None

    def resumed(self, number: int) -> None:
        """The rounds that an earlier start has completed."""
        if self._job is not None and number:
            self._job.note(f"continuing after round {number}")
            self._job.advance(number)

    def round_done(self, number: int, point: CurvePoint | None, spent: float | None) -> None:
        """Another round; some have figures."""
        if self._job is None:
            return
        self._job.advance()
        if point is not None:
            value = report.figure(point.value)
            # Rounded up: never more was spent than is shown.
            cost = (
                "" if spent is None else f", ε {math.ceil(100 * spent) / 100:.2f} spent on training"
            )
            self._job.note(f"round {number}: test {self._figure} {value}{cost}")

    def baseline_done(self, found: Outcome) -> None:
        """Another baseline, with its figure."""
        if self._job is not None:
            self._job.advance()
            name = {"alone-private": "alone, private", "alone": "alone, no privacy"}.get(
                found.kind, "pooled, no privacy"
            )
            site = f"{found.site} " if found.site else ""
            self._job.note(
                f"{site}{name}: test {self._figure} {report.figure(found.metrics.main.value)}"
            )


def show(console: Console, result: Result, run: Path) -> None:
    """One screen: warnings, the table, what it cost, and where the report is."""
    for line in (*result.warnings, *result.hospitals.facts):
        console.print(Text(line, style="bold yellow" if line.startswith("NOT") else "yellow"))
    title = Text(f"{result.study.title}: {result.metrics.patients} held-out test patients")
    for name, privacy, outcome in report.rows(result):
        if outcome.note:
            console.print(Text(f"{name}, {privacy}: {outcome.note}", style="yellow"))
    console.print(Panel(Group(_comparison(result), _cost(result)), title=title))
    console.print(_where(result, run))


def _comparison(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model")
    table.add_column("privacy")
    head, *others = result.study.figures[:2]
    for name in (head[1], "95 % interval", *(words for _, words in others)):
        table.add_column(name, justify="right")
    for name, privacy, outcome in report.rows(result):
        found = outcome.metrics
        table.add_row(
            Text(name),
            privacy,
            report.figure(found.main.value),
            report.interval(found.main),
            *(report.figure(found.figures[each].value) for each, _ in others),
            style="bold cyan" if outcome.kind == "shared" else None,
        )
    return table


def _cost(result: Result) -> Text:
    if result.delta is None:
        return Text("\nno privacy: nothing limits what the updates reveal")
    paid = result.epsilon
    if len(paid) <= MOST_NAMES:
        costs = ", ".join(f"{site} {report.epsilon(value)}" for site, value in sorted(paid.items()))
    else:
        ordered = sorted(paid.values(), key=lambda value: math.inf if value is None else value)
        least, most = map(report.epsilon, (ordered[0], ordered[-1]))
        costs = f"{least if least == most else f'{least} to {most}'} at {len(paid)} hospitals"
    return Text(f"\nepsilon, evaluation included, at delta {result.delta:g}: {costs}")


def _where(result: Result, run: Path) -> Text:
    seconds = sum(result.seconds.values())
    package = run / PACKAGE
    written = [("model    ", "dim"), (f"{package}\n", "bold")] if package.exists() else []
    return Text.assemble(
        ("report   ", "dim"),
        (f"{run / report.FILE}\n", "bold"),
        *written,
        ("weights  ", "dim"),
        f"sha256 {result.final_weights_sha256[:16]}…   ",
        ("seed ", "dim"),
        f"{result.seeds.run}   ",
        ("took ", "dim"),
        f"{seconds:.0f} s",
    )
