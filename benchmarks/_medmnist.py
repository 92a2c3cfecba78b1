"""A shipped study over five divisions of a MedMNIST file into four hospitals.

Each run is a whole simulated study, as ``consilium-sim run`` would do it. The files have no
patient ids, so each image counts as one patient.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Final

from common.process.logs import configure
from common.process.progress import silent
from simulations.cli.studies import find_study
from simulations.hospitals.npz import read_source, write_divided
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings

SEEDS: Final = (0, 1, 2, 3, 4)
FIGURES: Final = ("AUC", "accuracy")
FOLDER: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "medmnist"


def data_file(name: str) -> Path:
    """Where a MedMNIST file is; the environment variable of its name in capitals says so."""
    return Path(os.environ.get(name.upper(), FOLDER / f"{name}.npz"))


def measure(study: str | Path, seed: int, data: Path) -> dict[str, float]:
    """AUC, accuracy and balanced accuracy on the test set, and the most a patient pays."""
    configure(level="error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = read_source(data, dataset=None, classes=None, modality=None)
        write_divided(folder / "hospitals", source, sites=4, alpha=0.5, seed=seed, progress=silent)
        path = study if isinstance(study, Path) else find_study(study)
        result = run_study(
            RunSettings(
                path, folder / "hospitals", folder / "run", seed=seed, baselines=False, processes=1
            )
        )
    found = result.metrics.figures
    paid = max(cost for cost in result.epsilon.values() if cost is not None)
    recalls = (found["sensitivity"].value or 0.0, found["specificity"].value or 0.0)
    return {
        "AUC": found["auc"].value or 0.0,
        "accuracy": found["accuracy"].value or 0.0,
        "balanced accuracy": mean(recalls),
        "epsilon": paid,
    }


def compare(
    name: str,
    studies: Mapping[str, str | Path],
    published: Mapping[str, float],
    claims: Mapping[tuple[str, str], float],
) -> int:
    """Print one line a study and figure: the mean over the seeds beside the published one.

    Args:
        name: of the MedMNIST file.
        studies: shipped ones, or files, by what they are called here.
        published: of ResNet-18 at 28 pixels, all data in one place, not private.
        claims: the least that a study's figure is said to be.

    Returns:
        1 where a claim is missed.
    """
    data = data_file(name)
    if not data.exists():
        print(f"skipped: no {data.name}; {name.upper()}=FILE names it", file=sys.stderr)
        return 0
    missed = False
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        for called, study in studies.items():
            runs = list(pool.map(measure, [study] * len(SEEDS), SEEDS, [data] * len(SEEDS)))
            for figure in FIGURES:
                print(json.dumps(_line(called, figure, runs, published[figure])), flush=True)
                least = claims.get((called, figure), 0.0)
                missed |= mean(run[figure] for run in runs) < least
    return int(missed)


def _line(
    study: str, figure: str, runs: list[dict[str, float]], published: float
) -> dict[str, object]:
    values = [run[figure] for run in runs]
    return {
        "name": f"{study}, mean of {len(SEEDS)} seeds, against central ResNet-18, not private",
        "ours": round(mean(values), 4),
        "peer": published,
        "ratio": round(mean(values) / published, 4),
        "unit": f"test {figure}",
        "spread": round(stdev(values), 4),
        "seeds": [round(value, 4) for value in values],
        "epsilon": round(max(run["epsilon"] for run in runs), 3),
    }
