"""Whole studies beside the shipped one, judged without the official test set.

``python -m benchmarks.search.pneumonia [--epsilon E] [--seeds S ...] [NAME ...]``

A file is made in which MedMNIST's official validation split takes the place of the test split,
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

from benchmarks._medmnist import data_file, measure
from common.study.study_file import load_study
from simulations.cli.studies import find_study

CNN: Final[dict[str, dict[str, Any]]] = {
    "model": {"name": "cnn"},
    "training": {"rounds": 200, "batch_size": 256, "learning_rate": 0.5},
    "aggregation": {"average_decay": 0.98},
}
CANDIDATES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "shipped": {},
    "half the rate": {"training": {"learning_rate": 1.0}},
    "twice the rate": {"training": {"learning_rate": 4.0}},
    "no class weights": {"task": {"class_weights": None}},
    "half the rounds": {"training": {"rounds": 50}},
    "half the batch": {"training": {"batch_size": 256}},
    "augmented": {
        "training": {
            "augmentation": {"rotate": 5.0, "crop": 0.035, "zoom": 0.05, "intensity": 0.05}
        }
    },
    "one scale more": {"model": {"scales": 3}},
    "cnn": CNN,
    "cnn, 8 channels": CNN | {"model": {"name": "cnn", "widths": [8, 8, 8]}},
    "cnn, flat head": CNN | {"model": {"name": "cnn", "pooling": "flatten"}},
    "cnn, not normalised": CNN | {"model": {"name": "cnn", "norm": "none"}},
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
    document = load_study(find_study("pneumonia-epsilon3")).model_dump(
        mode="json", exclude_none=True
    )
    document["privacy"]["epsilon"] = epsilon
    for section, values in changes.items():
        for key, value in values.items():
            if value is None:
                document[section].pop(key, None)
            else:
                document[section][key] = value
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return path


def judge(name: str, epsilon: float, seed: int, data: Path) -> tuple[float, float, float]:
    """AUC, balanced accuracy and accuracy of one candidate on the validation split."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        study = candidate(CANDIDATES[name], epsilon, folder / "study.toml")
        found = measure(study, seed, without_test(data, folder))
    return found["AUC"], found["balanced accuracy"], found["accuracy"]


def main() -> None:
    """Measure the candidates named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    given = parser.parse_args()
    names, seeds = given.names or list(CANDIDATES), given.seeds
    data = data_file("pneumoniamnist")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        runs = {
            name: [pool.submit(judge, name, given.epsilon, seed, data) for seed in seeds]
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
