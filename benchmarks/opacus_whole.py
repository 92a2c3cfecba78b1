"""A whole private study beside the same one trained with Opacus' own engine.

PneumoniaMNIST, four hospitals, the same network, rounds, local steps, expected batch, clip norm,
rate, epsilon and delta. Opacus' side is what a researcher would write: for each hospital
``make_private_with_epsilon`` and one optimiser for all rounds, and the mean of the hospitals'
weights after each. It has no gates, no fixed point and no cap, and its noise comes from torch's
generator. Some seven minutes on two processors.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import tomli_w
import torch
from opacus import PrivacyEngine
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._medmnist import data_file
from simulations.hospitals.npz import read_source, write_divided
from simulations.reports.result import read_result

ROUNDS, STEPS, BATCH, RATE, CLIP = 10, 10, 64, 0.5, 1.0
EPSILON, DELTA = 8.0, 1e-5
SEEDS: Final = (0, 1, 2)
STUDY: Final[dict[str, dict[str, Any]]] = {
    "study": {"name": "opacus", "title": "Beside Opacus"},
    "task": {"classes": ["normal", "pneumonia"]},
    "data": {"dataset": "pneumoniamnist", "modalities": ["DX"], "image_size": [28, 28]},
    "model": {"name": "cnn", "widths": [16, 32], "norm": "group"},
    "training": {
        "rounds": ROUNDS,
        "local_steps": STEPS,
        "batch_size": BATCH,
        "learning_rate": RATE,
    },
    "privacy": {"mode": "patient", "epsilon": EPSILON, "delta": DELTA, "clip_norm": CLIP},
    "evaluation": {"rounds": "none"},
    "aggregation": {"strategy": "fedavg", "average_decay": 0.0},
}


def network() -> nn.Module:
    """The study's network as plain torch."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)),
    )


def theirs(hospitals: Path, seed: int) -> tuple[float, float]:
    """Seconds and AUC with Opacus."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(seed)
    began = time.perf_counter()
    manifest = json.loads((hospitals / "hospitals.json").read_text())
    images = np.load(hospitals / "images.npy").astype(np.float32)
    labels = np.load(hospitals / "targets.npy")
    shared, sites = network(), []
    for name in manifest["sites"]:
        first, last = manifest["rows"][name]
        cut = first + int(0.9 * (last - first))  # the rest validates, as in the study
        pixels, targets = torch.from_numpy(images[first:cut]), torch.from_numpy(labels[first:cut])
        model = network()
        loader = DataLoader(TensorDataset(pixels, targets), batch_size=BATCH)
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        per_epoch = len(loader)
        private, optimiser, loader = PrivacyEngine().make_private_with_epsilon(
            module=model,
            optimizer=optimiser,
            data_loader=loader,
            target_epsilon=EPSILON,
            target_delta=DELTA,
            epochs=max(1, round(ROUNDS * STEPS / per_epoch)),
            max_grad_norm=CLIP,
        )
        sites.append((private, optimiser, loader, manifest["per_site"][name]["declared_patients"]))
    for _ in range(ROUNDS):
        start = nn.utils.parameters_to_vector(shared.parameters()).detach().clone()
        total, weight = torch.zeros_like(start), 0.0
        for private, optimiser, loader, declared in sites:
            nn.utils.vector_to_parameters(start, private.parameters())
            batches = iter(loader)
            for _ in range(STEPS):
                batch = next(batches, None)
                if batch is None:
                    batches = iter(loader)
                    batch = next(batches)
                optimiser.zero_grad()
                if len(batch[0]):
                    nn.functional.cross_entropy(private(batch[0]), batch[1]).backward()
                    optimiser.step()
            reached = nn.utils.parameters_to_vector(private.parameters()).detach()
            total, weight = total + declared * reached, weight + declared
        nn.utils.vector_to_parameters(total / weight, shared.parameters())
    first, last = manifest["rows"]["test"]
    with torch.no_grad():
        scores = shared(torch.from_numpy(images[first:last])).softmax(1)[:, 1]
    auc = float(roc_auc_score(labels[first:last], scores))
    return time.perf_counter() - began, auc


def ours(study: Path, hospitals: Path, out: Path, seed: int) -> tuple[float, float]:
    """Seconds of the rounds and what comes before them, and AUC."""
    words = ["run", study, "--hospitals", hospitals, "--out", out, "--seed", seed]
    command = [sys.executable, "-W", "ignore", "-m", "simulations.cli.app", *map(str, words)]
    more = ["--no-baselines", "--no-package", "--grid", "process"]
    subprocess.run([*command, *more], check=True, capture_output=True)
    result = read_result(out)
    return result.seconds["decode"] + result.seconds["rounds"], result.metrics.main.value or 0.0


def main() -> None:
    """Print time and AUC, the mean of three divisions."""
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / "study.toml"
        study.write_text(tomli_w.dumps(STUDY))
        source = read_source(data_file("pneumoniamnist"))
        for seed in SEEDS:
            hospitals = folder / f"hospitals-{seed}"
            write_divided(hospitals, source, sites=4, alpha=0.5, seed=seed, arrays=True)
            found["ours"].append(ours(study, hospitals, folder / f"run-{seed}", seed))
            found["theirs"].append(theirs(hospitals, seed))
    for place, what, unit in ((0, "time", "s"), (1, "AUC", "")):
        mine, peer = (mean(each[place] for each in found[who]) for who in ("ours", "theirs"))
        line = {
            "name": f"a study at epsilon {EPSILON:g} beside Opacus: {what}",
            "ours": round(mine, 4),
            "peer": round(peer, 4),
            "ratio": round(mine / peer, 4),
            "unit": unit,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
