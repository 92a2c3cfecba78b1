"""A round over the network that does nothing: this package beside Flower's stock parts.

TLS and node keys on both sides, two sites that answer at once with what they were sent. Ours
goes through the gateway, as one array; Flower's through SuperLink, two SuperNodes and
``send_and_receive``, as 40 tensors, which is how a model's state is sent there, and as one.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.network import stock
from benchmarks.network.ours import exchange, link
from common.process import logs

MODEL: Final = 1_000_000
"""Entries of float32: 4 MB."""
MESSAGE: Final = 20_000
TENSORS: Final = 40
WARM, ROUNDS, STOCK_ROUNDS = 3, 20, 3
MOST_SECONDS: Final = {"4 MB": 0.8, "80 kB": 0.3}


def ours(folder: Path) -> dict[str, float]:
    """Median seconds of a round, by what is sent."""
    random = np.random.default_rng(0)
    medians = {}
    with link(folder, 2) as linked, linked.sites([[0], [1]]), linked.study() as grid:
        for name, entries in (("80 kB", MESSAGE), ("4 MB", MODEL)):
            times = []
            for _ in range(WARM + ROUNDS):
                times.append(exchange(grid, [random.random(entries, dtype=np.float32)]))
            medians[name] = statistics.median(times[WARM:])
    return medians


def flowers(folder: Path) -> dict[str, float]:
    """The same of Flower's stock parts."""
    work = {
        "80 kB": (1, MESSAGE, STOCK_ROUNDS),
        "4 MB in one": (1, MODEL, STOCK_ROUNDS),
        "4 MB": (TENSORS, MODEL // TENSORS, STOCK_ROUNDS),
    }
    times = stock.rounds(folder, work)
    return {name: statistics.median(several) for name, several in times.items()}


def say(name: str, value: float, peer: float, unit: str) -> None:
    """Print a comparison."""
    result = {
        "name": name,
        "ours": round(value, 4),
        "peer": round(peer, 4),
        "ratio": round(value / peer, 4),
        "unit": unit,
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    print(json.dumps(result), flush=True)


def main() -> int:
    """Print one line of JSON for each comparison; 1 if one is worse than claimed."""
    logs.configure(level="warning")
    with tempfile.TemporaryDirectory() as ground:
        folders = [Path(ground) / name for name in ("ours", "stock")]
        for folder in folders:
            folder.mkdir()
        mine = ours(folders[0])
        stocks = flowers(folders[1])
        for name in ("80 kB", "4 MB"):
            say(f"a round of {name} there and back, 2 sites, TLS; peer: stock Flower, {name}"
                + (f" in {TENSORS} tensors" if name == "4 MB" else ""),
                mine[name], stocks[name], "s")  # fmt: skip
        say(
            "the same 4 MB; peer: stock Flower, one array", mine["4 MB"], stocks["4 MB in one"], "s"
        )
    return int(any(mine[name] > most for name, most in MOST_SECONDS.items()))


if __name__ == "__main__":
    sys.exit(main())
