"""Settings for the pneumonia studies, chosen without the official test set.

``python -m benchmarks.search.pneumonia [--epsilon E] [--seeds S ...] [NAME ...]``

A file is made in which MedMNIST's official validation split stands where the test split was,
so that no run here can see a test image. Each candidate is run as a whole study on divisions
with seeds of their own (10 and up; the reported ones are 0 to 4). Prints a line a candidate:
the mean AUC, balanced accuracy and accuracy on the validation split.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import tomli_w

from benchmarks.pneumonia import DATA
from client.parallel import silent
from common.logs import configure
from common.study import load_study
from simulations.cli import find_study
from simulations.npz import read_source, write_divided
from simulations.order import Order
from simulations.run import conduct

CANDIDATES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "shipped": {},
    "no class weights": {"training": {"class_weights": None}},
    "half the rate": {"training": {"learning_rate": 0.5}},
    "half the rounds": {"training": {"rounds": 100}},
    "twice the batch": {"training": {"batch_size": 512}},
    "narrower": {"model": {"widths": [8, 8, 8]}},
    "widening": {"model": {"widths": [16, 32, 64]}},
    "flat head": {"model": {"pooling": "flatten"}},
    "not augmented": {"training": {"augmentation": {}}},
    "mirrored": {"training": {"augmentation": {"flip": True}}},
    "twice the augmentation, mirrored": {
        "training": {
            "augmentation": {
                "flip": True,
                "rotate": 10.0,
                "crop": 0.07,
                "zoom": 0.1,
                "intensity": 0.1,
            }
        }
    },
}


def without_test(data: Path, folder: Path) -> Path:
    """A copy of a MedMNIST file whose test split is the official validation split."""
    arrays = np.load(data)
    path = folder / data.name
    np.savez(
        path,
        train_images=arrays["train_images"][1:],
        train_labels=arrays["train_labels"][1:],
        val_images=arrays["train_images"][:1],  # an empty split is no MedMNIST file
        val_labels=arrays["train_labels"][:1],
        test_images=arrays["val_images"],
        test_labels=arrays["val_labels"],
    )
    return path


def candidate(changes: dict[str, dict[str, Any]], epsilon: float, path: Path) -> Path:
    """Write the shipped study with some settings changed."""
    document = load_study(find_study("pneumonia")).model_dump(mode="json", exclude_none=True)
    document["privacy"]["epsilon"] = epsilon
    for section, values in changes.items():
        for key, value in values.items():
            if value is None:
                document[section].pop(key, None)
            else:
                document[section][key] = value
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return path


def measure(name: str, epsilon: float, seed: int, data: Path) -> tuple[float, float, float]:
    """AUC, balanced accuracy and accuracy of one candidate on the validation split."""
    configure(level="error")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = read_source(without_test(data, folder), dataset=None, classes=None, modality=None)
        write_divided(folder / "hospitals", source, sites=4, alpha=0.5, seed=seed, progress=silent)
        study = candidate(CANDIDATES[name], epsilon, folder / "study.toml")
        found = conduct(
            Order(
                study,
                folder / "hospitals",
                folder / "run",
                seed=seed,
                baselines=False,
                processes=1,
            )
        ).metrics
    balanced = ((found.sensitivity.value or 0.0) + (found.specificity.value or 0.0)) / 2
    return found.auc.value or 0.0, balanced, found.accuracy.value or 0.0


def main() -> None:
    """Measure the candidates named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    given = parser.parse_args()
    names, seeds = given.names or list(CANDIDATES), given.seeds
    data = Path(os.environ.get("PNEUMONIAMNIST", DATA))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        runs = {
            name: [pool.submit(measure, name, given.epsilon, seed, data) for seed in seeds]
            for name in names
        }
        for name, futures in runs.items():
            auc, balanced, accuracy = (
                round(mean(column), 4)
                for column in zip(*(each.result() for each in futures), strict=True)
            )
            line = {"candidate": name, "epsilon": given.epsilon, "seeds": seeds, "auc": auc}
            line |= {"balanced_accuracy": balanced, "accuracy": accuracy}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
