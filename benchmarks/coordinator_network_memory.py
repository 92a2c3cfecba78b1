"""What another site costs a study's process in memory over a real SuperLink.

The process asks 4, and in another process 24, sites for an update of 11 M parameters, 44 MB,
through SuperLink, gateway and TLS, and folds each as it comes; the sites answer from a
separate process. The peer is what holding all replies would take, which is what
Flower's strategies do. Peaks are of resident memory, above what the process had before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.network.ours import link
from common.process import logs

WEIGHTS: Final = 11_000_000
FEW, MANY = 4, 24
MOST_GROWTH: Final = 2.0
"""MiB that another site may cost, a twentieth of its update: more rounds of allocating and
freeing arrays leave a little more lying about, but no array is kept."""
REPLY: Final = WEIGHTS * 4 / 2**20
"""MiB of an update."""


def peak_mib(sites: int) -> float:
    """The largest resident memory of this process after a round of so many sites."""
    logs.configure(level="warning")
    with tempfile.TemporaryDirectory() as ground:
        folder = Path(ground)
        with (
            link(folder, sites) as linked,
            linked.sites([list(range(sites))]),
            linked.study() as grid,
        ):
            from benchmarks.network.folding import fold_round

            before = _resident("VmRSS")
            folded = fold_round(grid, np.ones(WEIGHTS, dtype=np.int32))
            assert folded == sites
            return _resident("VmHWM") - before


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(sites: int) -> float:
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.coordinator_network_memory", str(sites)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Print one line of JSON; 1 if memory grows with the sites."""
    few, many = measure(FEW), measure(MANY)
    growth = (many - few) / (MANY - FEW)
    result = {
        "name": f"study's process, memory per further site over a SuperLink, {WEIGHTS} weights, "
        f"{FEW} to {MANY} sites ({few:.0f} and {many:.0f} MiB in all); peer: holding every reply",
        "ours": round(growth, 3),
        "peer": round(REPLY, 1),
        "ratio": round(growth / REPLY, 5),
        "unit": "MiB per site",
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    print(json.dumps(result))
    return int(growth > MOST_GROWTH)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [number]:
            sys.stdout.write(f"{peak_mib(int(number))}\n")
        case _:
            sys.exit(main())
