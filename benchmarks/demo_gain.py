"""What hospitals gain by training together: the demo over three seeds.

For each seed new hospitals are drawn and the demo study is run. The peer is the best hospital
that trains alone with the same privacy, the same steps and the best of three learning rates,
chosen on the test set itself, to the peer's advantage.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

from client.parallel import silent
from common.logs import configure
from simulations.cli import find_study
from simulations.demonstration import make_hospitals
from simulations.order import Order
from simulations.result import Kind, Result
from simulations.run import conduct

SEEDS = (0, 1, 2)
RATES = (1.0, 1 / 3, 3.0)


def best(results: list[Result], kind: Kind) -> float:
    """The highest test AUC of a kind of baseline, over hospitals and learning rates."""
    return max(
        outcome.metrics.auc.value or 0.0 for result in results for outcome in result.of_kind(kind)
    )


def results(seed: int, folder: Path) -> list[Result]:
    """The demo of one seed, its baselines trained with each learning rate."""
    make_hospitals(folder / "hospitals", seed=seed, progress=silent)
    order = Order(find_study("demo"), folder / "hospitals", folder / "run", seed=seed)
    return [
        conduct(replace(order, baseline_rate=rate, resume=number > 0))
        for number, rate in enumerate(RATES)
    ]


def main() -> None:
    """Print one line for each seed and comparison, and their means."""
    configure(level="error")
    ours, alone, pooled = [], [], []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            found = results(seed, Path(folder))
        ours.append(found[0].metrics.auc.value or 0.0)
        alone.append(best(found, "alone-private"))
        pooled.append(best(found, "pooled"))
        report(f"demo seed {seed}, best private hospital alone", ours[-1], alone[-1])
        report(f"demo seed {seed}, pooled without privacy", ours[-1], pooled[-1])
    report("demo mean of seeds, best private hospital alone", mean(ours), mean(alone))
    report("demo mean of seeds, pooled without privacy", mean(ours), mean(pooled))


def report(name: str, ours: float, peer: float) -> None:
    """Print one comparison."""
    line = {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": "test AUC"}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
