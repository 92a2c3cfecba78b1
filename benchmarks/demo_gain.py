"""What hospitals gain by training together: the demo over three seeds.

For each seed new hospitals are drawn and the demo study is run. The peer is the best hospital
that trains alone with the same privacy, the same steps and the best of three learning rates,
chosen on the test set itself, to the peer's advantage.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

from common.process.logs import configure
from common.process.progress import silent
from simulations.cli.demonstration import make_hospitals
from simulations.cli.studies import find_study
from simulations.reports.result import Kind, Result
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings

SEEDS = (0, 1, 2)
RATES = (1.0, 1 / 3, 3.0)
LEAST_GAIN, TOO_EASY = 0.03, 0.98
PEERS: dict[Kind, str] = {
    "alone-private": "best hospital alone with the same privacy",
    "alone": "best hospital alone without privacy",
    "pooled": "everything pooled without privacy",
}


def best(results: list[Result], kind: Kind) -> float:
    """The highest test AUC of a kind of baseline, over hospitals and learning rates."""
    return max(
        outcome.metrics.main.value or 0.0 for result in results for outcome in result.of_kind(kind)
    )


def results(seed: int, folder: Path) -> list[Result]:
    """The demo of one seed, its baselines trained with each learning rate."""
    make_hospitals(folder / "hospitals", seed=seed, progress=silent)
    settings = RunSettings(find_study("demo"), folder / "hospitals", folder / "run", seed=seed)
    return [
        run_study(replace(settings, baseline_rate=rate, resume=number > 0))
        for number, rate in enumerate(RATES)
    ]


def main() -> int:
    """Print one line for each seed and comparison, and their means.

    Returns:
        1 where the mean gain over the best private hospital is below 0.03, or pooling
        reaches 0.98, so that the task would be too easy to show anything.
    """
    configure(level="error")
    ours: list[float] = []
    peers: dict[Kind, list[float]] = {kind: [] for kind in PEERS}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            found = results(seed, Path(folder))
        ours.append(found[0].metrics.main.value or 0.0)
        for kind, words in PEERS.items():
            peers[kind].append(best(found, kind))
            report(f"demo seed {seed}, {words}", ours[-1], peers[kind][-1])
    for kind, words in PEERS.items():
        report(f"demo mean of {len(SEEDS)} seeds, {words}", mean(ours), mean(peers[kind]))
    gain = mean(ours) - mean(peers["alone-private"])
    return int(gain < LEAST_GAIN or max(peers["pooled"]) >= TOO_EASY)


def report(name: str, ours: float, peer: float) -> None:
    """Print one comparison."""
    line = {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": "test AUC"}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
