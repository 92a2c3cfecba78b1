"""What an audit shows on a terminal: one screen, with the verdict last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulations.audit.findings import Findings, LowerBound, OneRunFinding
from simulations.audit.page import FILE, verdict
from simulations.reports.report import epsilon

_MEANING: Final = Text(
    "Each value is a lower bound. A bound above the claim would break it.", "dim"
)


def show(console: Console, findings: Findings, out: Path) -> None:
    """Warnings, bounds, premises, membership, and the verdict."""
    for line in findings.warnings:
        console.print(Text(line, style="bold yellow" if line.startswith("NOT") else "yellow"))
    if findings.mechanism:
        console.print(Text("\nThe mechanism: tiny studies that run the sites' own code", "bold"))
        table = _table("site")
        for found in findings.mechanism:
            _rows(table, found.site, found.claimed, found.bounds)
        console.print(table)
        console.print(_MEANING)
    if findings.checks:
        console.print(Text("\nPremises", style="bold"))
        console.print(_premises(findings))
    if findings.one_run:
        _whole(console, findings.one_run)
    style = "bold green" if findings.survived else "bold red"
    confidence = f"{100 * findings.confidence:g} % confidence in all bounds together"
    console.print(Text.assemble("\n", (verdict(findings), style), f"   {confidence}"))
    console.print(Text.assemble(("report   ", "dim"), (str(out / FILE), "bold")))


def _whole(console: Console, found: OneRunFinding) -> None:
    runs = "one run" if found.runs == 1 else f"{found.runs} runs"
    title = f"\nThe whole study, {runs}: {found.canaries} canaries ({found.kind}), "
    console.print(Text(f"{title}{found.inserted} of them in", style="bold"))
    table = _table("runs")
    _rows(table, str(found.runs), found.claimed, found.bounds)
    console.print(table)
    console.print(_MEANING)
    caught = ", ".join(
        f"{100 * true:.1f} % at {100 * false:g} % false alarms"
        for false, true in found.membership.caught
    )
    console.print(Text(f"members caught: {caught}; AUC {found.membership.auc:.3f}"))
    console.print(Text(f"the most that this number of canaries can show: {found.ceiling:.2f}"))


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in ("claimed epsilon", "epsilon is at least"):
        table.add_column(name, justify="right")
    table.add_column("method")
    table.add_column("counted")
    return table


def _rows(table: Table, name: str, claimed: float, bounds: Sequence[LowerBound]) -> None:
    for place, bound in enumerate(bounds):
        table.add_row(
            name if place == 0 else "",
            epsilon(claimed) if place == 0 else "",
            Text(f"{bound.epsilon:.2f}", style="bold red" if bound.epsilon >= claimed else ""),
            bound.name,
            bound.detail,
        )


def _premises(findings: Findings) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("site", "premise", "holds", "found"):
        table.add_column(name)
    for check in findings.checks:
        holds = Text("yes") if check.passed else Text("NO", style="bold red")
        table.add_row(check.site or "", check.name, holds, check.found)
    return table
