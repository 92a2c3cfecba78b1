"""``consilium-sim demo``: made-up hospitals, the shipped study, and its result, once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from common.errors import CheckpointError
from common.process.progress import Progress
from simulations.archives.manifest import MANIFEST
from simulations.hospitals.synth import Size, write_synthetic
from simulations.reports.result import FILE, Result, read_result
from simulations.runs.run_settings import RECORD, RunSettings, clear, contents

HOSPITALS: Final = "hospitals"


def finished(run: Path) -> Result | None:
    """The result that the folder holds; None where there is none yet."""
    return read_result(run) if (run / FILE).exists() else None


def start_afresh(settings: RunSettings) -> None:
    """Remove an earlier run, but not its hospitals.

    Raises:
        CheckpointError: the folder holds something that no run has written.
    """
    # A mistyped --out must not delete anyone's files.
    if contents(settings) and not (settings.run / RECORD).exists():
        raise CheckpointError(
            "this folder does not hold a run, so nothing in it was removed",
            where=settings.run,
            remedy="choose another --out",
        )
    clear(settings)


def make_hospitals(folder: Path, *, seed: int, progress: Progress) -> None:
    """Draw the synthetic hospitals, unless they are there.

    Raises:
        DataError: the folder cannot be used.
    """
    if (folder / MANIFEST).exists():
        return
    for path in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(path)  # what a start that was killed has left
    write_synthetic(folder, Size(), seed=seed, progress=progress)
