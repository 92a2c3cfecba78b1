"""A comparison on a screen, in files and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.files import write_atomic
from simulations.sweeps.compare import CHOSEN, Compared, as_csv, as_latex, compare, table
from simulations.sweeps.pictures import against_epsilon, convergence, fairness
from simulations.sweeps.records import Record


def finish(
    records: Sequence[Record], folder: Path, console: Console, sweeps: Sequence[Path]
) -> None:
    """Compare finished runs: on the screen, and in a folder.

    Args:
        records: of the runs.
        folder: to write to.
        console: to show on.
        sweeps: folders whose runs these are.

    Raises:
        StudyError: they cannot be compared.
    """
    rows = compare(records)
    show(rows, records[0].headline, console)
    written = {
        "comparison.csv": as_csv(rows).encode(),
        "comparison.tex": as_latex(rows).encode(),
        "utility-against-epsilon.png": against_epsilon(rows, records[0].headline),
        "convergence.png": convergence(records, sweeps),
        "fairness.png": fairness(records),
    }
    for name, content in written.items():
        if content is None:
            continue
        path = folder / name
        write_atomic(path, content)
        console.print(str(path), markup=False)


def show(rows: Sequence[Compared], headline: str, console: Console) -> None:
    """Print the table."""
    head, *body = table(rows)
    shown = Table(title=headline, title_justify="left", box=None, pad_edge=False)
    for name in head:
        shown.add_column(name)
    for each in body:
        shown.add_row(*each)
    console.print(shown)
    console.print(f"\n{CHOSEN}", markup=False)
