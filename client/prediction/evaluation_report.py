"""What an evaluation at a hospital found: on screen, and as files that stay there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.prediction.evaluate import Decided, JudgedModel, OwnEvaluation
from client.prediction.local import Local, write_local
from client.prediction.own import Named
from client.prediction.reader import Reading
from client.prediction.table import Cell, write_tables
from common.figures.intervals import Estimate
from common.package.package import Package
from common.tasks.task import Task

PATIENTS: Final = "patients"
SHOWN: Final = 8
"""Figures on screen."""


def write(
    folder: Path,
    package: Package,
    found: OwnEvaluation,
    alpha: float,
) -> list[Path]:
    """Write the list of patients, the most doubtful first, and what predictions can use.

    Args:
        folder: where.
        package: the model.
        found: what to write.
        alpha: of the conformal sets.
    """
    rows = [_row(package, found, place) for place in range(len(found.patients))]
    differ = [bool(row.get("model and reader differ")) for row in rows]
    order = np.lexsort((-found.shared.apart, ~np.array(differ), ~found.suspects))
    local = Local(
        weights=package.statement.weights,
        study=package.statement.study,
        alpha=alpha,
        threshold=found.threshold,
        patients=len(found.patients),
        profile=found.profile,
    )
    return [
        *write_tables(folder, PATIENTS, [rows[place] for place in order]),
        write_local(folder, local),
    ]


def _row(package: Package, found: OwnEvaluation, place: int) -> dict[str, Cell]:
    """One patient: what is known, what the model and a reader say, and whether to look again."""
    task, patient, shared = package.study.task, found.patients[place], found.shared
    identifier, files = found.named.get(patient.pseudonym, Named("", []))
    known = _words(task, shared.truths[place])
    said = found.said[place]
    row: dict[str, Cell] = {"patient": identifier, "known": known}
    if said is not None:
        row |= {"model": task.classes[said], "model differs": said != int(shared.truths[place])}
    if found.opinions:
        opinion = found.opinions.get(patient.pseudonym)
        row["reader"] = "" if opinion is None else _words(task, opinion)
        row["model and reader differ"] = opinion is not None and said != opinion
    row |= {
        name: round(float(value), 6)
        for name, value in zip(task.columns(), shared.numbers[place], strict=True)
    }
    row["apart"] = round(float(shared.apart[place]), 6)
    row["model contradicts it firmly"] = bool(found.suspects[place])
    row["files"] = "; ".join(files)
    return row


def _words(task: Task, truth: float) -> str:
    if not np.isfinite(truth):
        return "mask"
    return task.classes[int(truth)] if task.classes else f"{truth:g}"


def show(console: Console, package: Package, found: OwnEvaluation, files: Sequence[Path]) -> None:
    """The figures side by side, and what follows from them."""
    held = (
        "of whom you say that none was in training"
        if found.held_out and found.said_new
        else "none of whom was in training, by today's split"
        if found.held_out
        else "some may have been in training"
    )
    console.print(Text(f"{len(found.patients)} patients of this hospital, {held}.", style="bold"))
    if not found.held_out:
        console.print(Text("The shared model may look better here than it is.", style="yellow"))
    console.print(_figures(package, found))
    headline = package.study.task.names[package.study.task.headline]
    if found.decided:
        console.print("What `predict` finds here, by the rule that decides (--at):")
        console.print(_rules(found.decided))
    if found.ahead is not None:
        console.print(Text(_ahead(found.ahead, headline), style="bold"))
    for note in found.notes:
        console.print(Text(note, style="yellow"))
    if found.reading is not None:
        for line in _reading(found.reading):
            console.print(Text(line))
    suspects = int(found.suspects.sum())
    thing = "masks" if package.study.heads.dense else "labels"
    console.print(
        f"Patients whose {thing} the model firmly contradicts: {suspects}. One of the two is "
        "wrong; they come first in patients.csv."
    )
    if found.threshold is None:
        console.print(Text(f"No sets of answers: {found.why}", style="dim"))
    console.print("Written, and not to leave the hospital:", style="bold")
    for path in files:
        console.print(Text(f"  {path}"))


def _figures(package: Package, found: OwnEvaluation) -> Table:
    table = Table("figure", "shared model", box=None)
    if found.alone is not None:
        table.add_column("your hospital alone")
    for name, words in list(package.study.task.names.items())[:SHOWN]:
        of = [each.figures.values.get(name) for each in _models(found)]
        table.add_row(Text(words), *(Text(_figure(each)) for each in of))
    return table


def _rules(decided: Sequence[Decided]) -> Table:
    table = Table("rule", "sensitivity", "specificity", box=None)
    for place, each in enumerate(decided):
        name = f"{each.rule} (used unless you name another)" if place == 0 else each.rule
        table.add_row(Text(name), _figure(each.sensitivity), _figure(each.specificity))
    return table


def _models(found: OwnEvaluation) -> list[JudgedModel]:
    return [found.shared] if found.alone is None else [found.shared, found.alone]


def _figure(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "–"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _ahead(ahead: Estimate, figure: str) -> str:
    """Did joining help us?"""
    shown = (
        f"{figure} {ahead.value or 0.0:+.3f} (95 % interval {ahead.low:+.3f} to {ahead.high:+.3f})"
    )
    if ahead.low > 0:
        return f"Joining helped: {shown} over a model of yours alone."
    if ahead.high < 0:
        return f"Joining did not help: {shown} over a model of yours alone."
    return f"Whether joining helped cannot be told from these patients: {shown}."


def _reading(found: Reading) -> list[str]:
    return [
        f"Beside the second reader, on the {found.patients} patients with one opinion of theirs: "
        f"the model is right for {_figure(found.model)}, the reader for {_figure(found.reader)}.",
        f"Only the model is right for {found.only_model}, only the reader for {found.only_reader} "
        f"(McNemar's exact test: p = {found.p:.3g}); their agreement, Cohen's kappa, is "
        f"{found.kappa:.2f}.",
    ]
