"""The study of the whole command without anything of ours: four models in a loop, averaged.

PneumoniaMNIST is read from its file and divided by the same labels' division; the same small
network takes the same number of steps, and the AUC of each round is measured.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

SITES, ROUNDS, STEPS, BATCH, RATE = 4, 5, 20, 64, 0.1


def network() -> nn.Module:
    """That of :data:`benchmarks.simulation.WHOLE`."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)),
    )


def main(path: Path) -> None:
    """Train, and print the AUC of the last round."""
    torch.manual_seed(0)
    with np.load(path) as file:
        images = np.concatenate([file["train_images"], file["val_images"]])
        labels = np.concatenate([file["train_labels"], file["val_labels"]]).reshape(-1)
        tests, truth = file["test_images"], file["test_labels"].reshape(-1)
    pixels = torch.from_numpy(images[:, None].astype(np.float32) / 255)
    targets, tested = torch.from_numpy(labels.astype(np.int64)), tests[:, None] / np.float32(255)
    order = np.random.default_rng(0).permutation(len(labels))
    shared, auc = network(), 0.0
    for _ in range(ROUNDS):
        reached = []
        for site in range(SITES):
            own, model = order[site::SITES], copy.deepcopy(shared)
            optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
            for _ in range(STEPS):
                rows = torch.from_numpy(np.random.default_rng().choice(own, BATCH))
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(pixels[rows]), targets[rows]).backward()
                optimiser.step()
            reached.append(nn.utils.parameters_to_vector(model.parameters()).detach())
        nn.utils.vector_to_parameters(torch.stack(reached).mean(0), shared.parameters())
        with torch.no_grad():
            scores = shared(torch.from_numpy(tested)).softmax(1)[:, 1]
        auc = float(roc_auc_score(truth, scores))
    print(f"AUC {auc:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
