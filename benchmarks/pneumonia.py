"""The shipped pneumonia studies over five divisions of PneumoniaMNIST into four hospitals.

The peer is the published ResNet-18 of MedMNIST v2 (Yang et al. 2023, table 4, images of 28
pixels), trained in one place without privacy: AUC 0.944, accuracy 0.854. The file has no
patient ids, so each image stands as a patient.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from client.parallel import silent
from common.logs import configure
from simulations.cli import find_study
from simulations.npz import read_source, write_divided
from simulations.order import Order
from simulations.run import conduct

SEEDS = (0, 1, 2, 3, 4)
STUDIES = ("pneumonia", "pneumonia-epsilon3")
PUBLISHED = {"AUC": 0.944, "accuracy": 0.854}
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "medmnist" / "pneumoniamnist.npz"
"""Where the file is looked for; the environment variable PNEUMONIAMNIST names another place."""


def measure(study: str, seed: int, data: Path) -> dict[str, float]:
    """AUC and accuracy on the official test set, and the most that a patient pays."""
    configure(level="error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = read_source(data, dataset=None, classes=None, modality=None)
        write_divided(folder / "hospitals", source, sites=4, alpha=0.5, seed=seed, progress=silent)
        result = conduct(
            Order(
                find_study(study),
                folder / "hospitals",
                folder / "run",
                seed=seed,
                baselines=False,
                processes=1,
            )
        )
    figures = result.metrics
    paid = max(cost for cost in result.epsilon.values() if cost is not None)
    return {
        "AUC": figures.auc.value or 0.0,
        "accuracy": figures.accuracy.value or 0.0,
        "epsilon": paid,
    }


def main() -> int:
    """Print one line a study and figure: the mean over the seeds beside the published one.

    Returns:
        1 where the first study no longer reaches a published figure.
    """
    data = Path(os.environ.get("PNEUMONIAMNIST", DATA))
    if not data.exists():
        print(f"skipped: no {data.name}; PNEUMONIAMNIST=FILE names it", file=sys.stderr)
        return 0
    missed = False
    spawn = multiprocessing.get_context("spawn")
    processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        for study in STUDIES:
            runs = list(pool.map(measure, [study] * len(SEEDS), SEEDS, [data] * len(SEEDS)))
            for figure, published in PUBLISHED.items():
                values = [run[figure] for run in runs]
                line = {
                    "name": f"{study}, mean of {len(SEEDS)} seeds, central ResNet-18, not private",
                    "ours": round(mean(values), 4),
                    "peer": published,
                    "ratio": round(mean(values) / published, 4),
                    "unit": f"test {figure}",
                    "spread": round(stdev(values), 4),
                    "seeds": [round(value, 4) for value in values],
                    "epsilon": round(max(run["epsilon"] for run in runs), 3),
                }
                print(json.dumps(line), flush=True)
                missed |= study == STUDIES[0] and mean(values) < published
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
