"""Advice on a screen: how loud noise would be, and what was reached on drawn radiographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.errors import StudyError
from common.privacy.loudness import NEARLY_NOISE
from common.process.progress import Progress
from common.settings import load_document
from common.study.study_file import load_initial, load_study, plain_study
from simulations.advice.advice import CLEAR, Advice, advise, numbers


def show(
    study: Path,
    patients: str,
    epsilons: Sequence[float],
    console: Console,
    progress: Progress | None = None,
) -> None:
    """What the command does.

    Args:
        study: the study file.
        patients: that hospitals declare, as a person writes them.
        epsilons: to try.
        console: to print on.
        progress: told of what is tried on drawn radiographs; None to try nothing.

    Raises:
        ConsiliumError: as :func:`simulations.advice.advice.advise` and
            :func:`simulations.advice.trial.curve`; or the study or the numbers cannot be read.
    """
    one, declared = plain_study(load_document(study, StudyError), study), numbers(patients)
    found = advise(one, declared, epsilons)
    console.print(
        "The noise of the whole study, in lengths of what all patients together can add.\n"
        "From 1 on it is nearly noise; below 0.1 noise costs little (docs/utility.md).\n"
        "Fewer weights have less of it, and can learn less.\n",
        markup=False,
    )
    console.print(table(found))
    if progress is None:
        return
    from simulations.advice.drawn import TESTED
    from simulations.advice.trial import curve

    whole = load_study(study)
    tried = curve(whole, declared, epsilons, progress, load_initial(whole, study.parent))
    console.print(
        f"\nAUC on {TESTED} radiographs that this program draws, after a study of hospitals of\n"
        "these sizes on others; one draw of the noise. It shows which way copes with the noise,\n"
        "not what your images would give.\n",
        markup=False,
    )
    shown = Table("What is trained", "Weights", box=None, pad_edge=False)
    for epsilon in epsilons:
        shown.add_column(f"epsilon {epsilon:g}")
    best = {each: max(one.reached[each] or 0.0 for one in tried) for each in epsilons}
    for row in tried:
        cells = (_cell(row.reached[each], best[each]) for each in epsilons)
        shown.add_row(row.way, f"{row.trained:,}", *cells)
    console.print(shown)


def _cell(reached: float | None, best: float) -> str:
    if reached is None:
        return "not tried"
    return f"{reached:.3f} best" if reached == best else f"{reached:.3f}"


def table(found: Sequence[Advice]) -> Table:
    """The advice, for a person."""
    epsilons = list(found[0].loud)
    shown = Table("What is trained", "Weights", box=None, pad_edge=False)
    for each in epsilons:
        shown.add_column(f"epsilon {each:g}")
    for one in found:
        shown.add_row(one.way, f"{one.trained:,}", *(in_words(one.loud[each]) for each in epsilons))
    return shown


def in_words(loud: float | None) -> str:
    """A loudness, and what it means."""
    if loud is None:
        return "not possible"
    meaning = "nearly noise" if loud >= NEARLY_NOISE else "weak" if loud >= CLEAR else "clear"
    return f"{loud:.2f} {meaning}"
