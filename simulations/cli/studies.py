"""Studies by their names, and the commands that ask about one: advise, sweep and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from common.errors import StudyError
from common.process.console import out, progress

STUDIES: Final = Path(__file__).resolve().parents[1] / "studies"
Out = Annotated[Path, typer.Option("--out", help="Folder for all output.")]


def find_study(name: str) -> Path:
    """The file of a study that is given by its path, or by the name of a shipped one.

    Raises:
        StudyError: there is neither.
    """
    known = {path.stem: path for path in shipped()}
    path = Path(name)
    if name in known and not path.is_file():
        return known[name]
    # A path, though nothing is there: the reader of studies reports it.
    if path.exists() or path.suffix:
        return path
    raise StudyError(
        "there is no such study",
        found=name,
        wanted=f"a study file, or one of {', '.join(known)}",
    )


def study_of_sweep(file: Path) -> Path:
    """The study that a sweep names: a file beside it, or a shipped one.

    Raises:
        StudyError: the sweep cannot be read, or there is no such study.
    """
    from simulations.sweeps.sweep_file import load_sweep

    named = load_sweep(file).sweep.study
    beside = file.parent / named
    return beside if beside.is_file() else find_study(named)


def shipped() -> list[Path]:
    """The files of the shipped studies."""
    return sorted(STUDIES.glob("*.toml"))


def advise(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    *,
    patients: Annotated[
        str, typer.Option(help="Patients that each hospital declares for training, as 40,60,25.")
    ],
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Try this epsilon. May be given several times.")
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Also try each way on radiographs that are drawn for it.")
    ] = False,
) -> None:
    """Say what of a study's model hospitals of these sizes can train, from public numbers alone."""
    from simulations.advice.page import show

    epsilons = epsilon or [1.0, 3.0, 8.0]
    show(find_study(study), patients, epsilons, out(), progress if draw else None)


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep: study, hospitals, seeds and settings.")],
    *,
    folder: Out = Path("runs/sweep"),
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Runs at a time; by default one for each processor."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder of each run, not its result alone.")
    ] = False,
) -> None:
    """Run a study with many settings and seeds. Run it again to continue."""
    from simulations.runs.run_settings import PROCESSES
    from simulations.sweeps.live import LiveTable
    from simulations.sweeps.page import finish
    from simulations.sweeps.sweep import SweepSettings, run_sweep

    study = study_of_sweep(file)
    console = out()
    try:
        with LiveTable(console) as table:
            settings = SweepSettings(file, study, folder, processes or PROCESSES, keep)
            found = run_sweep(settings, table)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here", markup=False)
        raise
    for cell, why in found.failed:
        console.print(f"seed {cell.seed}, {dict(cell.settings)}: {why}", markup=False)
    finish(found.records, folder, console, [folder])
    if found.failed:
        raise typer.Exit(1)


def compare_runs(
    folders: Annotated[list[Path], typer.Argument(help="Folders of sweeps.")],
    *,
    folder: Out = Path("runs/comparison"),
    mlflow: Annotated[
        str | None, typer.Option(help="Also write the runs to MLflow: a folder or a tracking URI.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="Also write the runs as TensorBoard's files, here."),
    ] = None,
) -> None:
    """Compare the finished runs of sweeps; the first setting is what others are held against."""
    from simulations.sweeps.page import finish
    from simulations.sweeps.records import Record, Records, require_sweep

    found: list[Record] = []
    for place in folders:
        require_sweep(place)
        if not (held := Records(place).all()):
            out().print(f"{place}: no finished run", markup=False)
        found += held
    finish(found, folder, out(), folders)
    from simulations.sweeps.trackers import to_mlflow, to_tensorboard

    for place in folders:
        if mlflow is not None:
            new = to_mlflow(place, Records(place).all(), mlflow)
            out().print(f"MLflow: {new} new runs of {place.name} in {mlflow}", markup=False)
        if tensorboard is not None:
            count = to_tensorboard(place, Records(place).all(), tensorboard)
            out().print(f"TensorBoard: {count} runs of {place.name} in {tensorboard}", markup=False)
