"""Runs a sweep in a process of its own, which a test kills: ``python -m tests.launch_sweep``."""

from __future__ import annotations

import sys
from pathlib import Path

from simulations.sweeps.sweep import SweepSettings, run_sweep

if __name__ == "__main__":
    world, folder = map(Path, sys.argv[1:])
    run_sweep(SweepSettings(world / "sweep.toml", world / "tiny.toml", folder, 2))
