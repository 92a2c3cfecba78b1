"""``consilium-sim demo``: made-up hospitals, the shipped study, and its result, once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from common.errors import CheckpointError
from simulations.archives import MANIFEST
from simulations.order import RECORD, Order, clear, contents
from simulations.result import FILE, Result, read_result

HOSPITALS: Final = "hospitals"


def finished(run: Path) -> Result | None:
    """The result that the folder holds; None where there is none yet."""
    return read_result(run) if (run / FILE).exists() else None


def start_afresh(order: Order) -> None:
    """Remove an earlier run, but not its hospitals.

    Raises:
        CheckpointError: the folder holds something that no run has written.
    """
    if contents(order) and not (order.run / RECORD).exists():
        raise CheckpointError(
            "this folder is not that of a run, so nothing in it was removed",
            where=order.run,
            remedy="take another --out",
        )
    clear(order)


def make_hospitals(folder: Path, *, seed: int) -> None:
    """Write the synthetic hospitals, unless they are there."""
    if (folder / MANIFEST).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # half-written by a start that was killed
    from simulations.synth import write_hospitals

    write_hospitals(folder, seed=seed)
