"""A comparison on a screen, in files and as a picture."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from rich.console import Console
from rich.table import Table

from common.documents import read_json
from common.errors import CheckpointError
from common.files import write_atomic
from simulations.reports.plots import DPI, STYLE, WIDTH
from simulations.sweeps.compare import CHOSEN, Compared, as_csv, as_latex, compare, table
from simulations.sweeps.records import Record, result_of

EPSILON: Final = "privacy.epsilon"
MOST_LINES: Final = 10
"""Settings whose lines are drawn: of more, none could be told from another."""


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
    written = write(rows, records[0].headline, folder)
    if (drawn := convergence(records, sweeps)) is not None:
        written.append(folder / "convergence.png")
        write_atomic(written[-1], drawn)
    for path in written:
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


def write(rows: Sequence[Compared], headline: str, folder: Path) -> list[Path]:
    """Write the table as CSV and LaTeX, and a picture where epsilon was varied."""
    found = [folder / "comparison.csv", folder / "comparison.tex"]
    write_atomic(found[0], as_csv(rows).encode())
    write_atomic(found[1], as_latex(rows).encode())
    if any(EPSILON in row.settings for row in rows):
        found.append(folder / "utility-against-epsilon.png")
        write_atomic(found[-1], _picture(rows, headline))
    return found


def convergence(records: Sequence[Record], sweeps: Sequence[Path]) -> bytes | None:
    """The headline figure by round, a line a setting: the mean over seeds, and all of them thin.

    None where no whole result is kept.
    """
    curves: defaultdict[str, list[dict[int, float]]] = defaultdict(list)
    for record in records:
        for place in sweeps:
            with suppress(CheckpointError):
                points = result_of(place, record).shared.curve
                found = {each.round: each.value for each in points if each.value is not None}
                said = ", ".join(map(str, read_json(record.settings).values()))
                curves[said or record.headline].append(found)
                break
    if not any(map(len, (each for lines in curves.values() for each in lines))):
        return None
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 0.6 * WIDTH), layout="constrained")
        axes = canvas.add_subplot()
        for said, lines in list(curves.items())[:MOST_LINES]:
            rounds = sorted(set.intersection(*(set(each) for each in lines)))
            mean = [sum(each[at] for each in lines) / len(lines) for at in rounds]
            (drawn,) = axes.plot(rounds, mean, label=said)
            for each in lines:
                values = [each[at] for at in rounds]
                axes.plot(rounds, values, color=drawn.get_color(), alpha=0.25, linewidth=0.6)
        axes.set_xlabel("round")
        axes.set_ylabel(records[0].headline)
        if len(curves) > 1:
            axes.legend(frameon=False)
        found_bytes = io.BytesIO()
        canvas.savefig(found_bytes, format="png", dpi=DPI, metadata={"Software": None})
    return found_bytes.getvalue()


def _picture(rows: Sequence[Compared], headline: str) -> bytes:
    """Mean and interval over seeds against epsilon, a line for all other settings alike."""
    lines: defaultdict[str, list[Compared]] = defaultdict(list)
    for row in rows:
        if EPSILON in row.settings:
            others = {key: value for key, value in row.settings.items() if key != EPSILON}
            lines[", ".join(f"{value}" for value in others.values()) or headline].append(row)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, 0.6 * WIDTH), layout="constrained")
        axes = canvas.add_subplot()
        for said, each in lines.items():
            each.sort(key=lambda row: float(row.settings[EPSILON]))
            across = [float(row.settings[EPSILON]) for row in each]
            (drawn,) = axes.plot(across, [row.reached.mean for row in each], "o-", label=said)
            low, high = ([getattr(row.reached, end) for row in each] for end in ("low", "high"))
            axes.fill_between(across, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
        means = [row.reached.mean for each in lines.values() for row in each]
        room = max(0.05, 2 * (max(means) - min(means)))  # two seeds have endless intervals
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, min(means) - room), min(top, max(means) + room))
        axes.set_xscale("log")
        ticks = sorted({float(row.settings[EPSILON]) for row in rows if EPSILON in row.settings})
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axes.minorticks_off()
        axes.set_xlabel("epsilon of a patient")
        axes.set_ylabel(headline)
        if len(lines) > 1:
            axes.legend(frameon=False)
        found = io.BytesIO()
        canvas.savefig(found, format="png", dpi=DPI, metadata={"Software": None})
    return found.getvalue()
