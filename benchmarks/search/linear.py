"""Settings for one linear layer on fixed features, found where hospitals' images shift.

``python -m benchmarks.search.linear [--epsilon E ...] [--seeds N] [NAME ...]``

PneumoniaMNIST's test images come from elsewhere than its training images, so that a random
validation set tells little. Here a fifth of each class is held out that is extreme in one
simple statistic of the image (brightness, contrast, sharpness, border, where its brightness
lies), at the low or at the high end: twelve shifts, made of real images, none of them from
the test split. Each seed trains on the rest, divided over four hospitals, and is judged on
the fifth held out. Features are computed once, and the private gradients of a linear layer
have a closed form, so that a whole study takes a second.

Prints a line a candidate: mean AUC and mean balanced accuracy at threshold 0.5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from benchmarks._medmnist import data_file
from common.models.wavelets import Scattering
from common.privacy.accounting import calibrate
from common.privacy.cap import composed
from simulations.partitions.dirichlet import dirichlet_partition

Indices = npt.NDArray[np.int64]
FIRST_SEED: Final = 10
DELTA: Final = 1e-5
HELD_OUT: Final = 0.2


@dataclass(frozen=True)
class Settings:
    """What is searched; the defaults are those of a study that leaves training out."""

    scales: int = 2
    orientations: int = 8
    rounds: int = 100
    batch_size: int = 512
    learning_rate: float = 2.0
    momentum: float = 0.9
    average_decay: float = 0.95
    clip_norm: float = 1.0
    class_weights: tuple[float, float] = (1.94, 0.67)
    weights: str = "declared"


CANDIDATES: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "batch 256": {"batch_size": 256},
    "batch 2048": {"batch_size": 2048},
    "half the rate": {"learning_rate": 1.0},
    "twice the rate": {"learning_rate": 4.0},
    "half the clip norm": {"clip_norm": 0.5},
    "twice the clip norm": {"clip_norm": 2.0},
    "half the rounds": {"rounds": 50},
    "twice the rounds": {"rounds": 200},
    "no momentum": {"momentum": 0.0},
    "no momentum, tenfold rate": {"momentum": 0.0, "learning_rate": 20.0},
    "last weights": {"average_decay": 0.0},
    "longer average": {"average_decay": 0.98},
    "no class weights": {"class_weights": (1.0, 1.0)},
    "hospitals weigh by their noise": {"weights": "noise"},
    "hospitals weigh alike": {"weights": "equal"},
    "4 orientations": {"orientations": 4},
    "3 scales": {"scales": 3},
}


def shifts(images: torch.Tensor, labels: npt.NDArray[np.int64]) -> list[tuple[Indices, Indices]]:
    """Who trains and who is held out, for the low and the high end of each statistic."""
    found = []
    for statistic in _statistics(images):
        for low in (True, False):
            held = np.zeros(len(labels), dtype=bool)
            for label in np.unique(labels):
                members = np.flatnonzero(labels == label)
                edge = np.quantile(statistic[members], HELD_OUT if low else 1 - HELD_OUT)
                beyond = statistic[members] < edge if low else statistic[members] > edge
                held[members] = beyond
            found.append((np.flatnonzero(~held), np.flatnonzero(held)))
    return found


def _statistics(images: torch.Tensor) -> Iterator[npt.NDArray[np.float32]]:
    """Brightness, contrast, sharpness, brightness of the border, and where brightness lies."""
    every = (1, 2, 3)
    side = images.shape[-1]
    inner = 4 * images[..., 1:-1, 1:-1] - images[..., 2:, 1:-1] - images[..., :-2, 1:-1]
    inner = inner - images[..., 1:-1, 2:] - images[..., 1:-1, :-2]
    borders = (images[:, :, :3], images[..., :3], images[..., -3:])
    ramp = torch.linspace(-1, 1, side)
    yield images.mean(every).numpy()
    yield images.std(every).numpy()
    yield inner.abs().mean(every).numpy()
    yield torch.cat([border.flatten(1) for border in borders], 1).mean(1).numpy()
    yield (images * ramp).mean(every).numpy()
    yield (images * ramp[:, None]).mean(every).numpy()


@dataclass(frozen=True)
class Hospital:
    """Features with a one appended, labels, and the site's mechanism in public numbers."""

    features: torch.Tensor
    labels: torch.Tensor
    declared: int
    rate: float
    noise: float


def train(
    hospitals: list[Hospital], settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    """Weights (2, features + 1): federated DP-SGD with server momentum, averaged."""
    shape = (2, hospitals[0].features.shape[1])
    weights, velocity, average, kept = (
        torch.zeros(shape),
        torch.zeros(shape),
        torch.zeros(shape),
        0.0,
    )
    counts = [_weight(each, settings) for each in hospitals]
    for _ in range(settings.rounds):
        mean = torch.zeros(shape)
        for each, count in zip(hospitals, counts, strict=True):
            noisy = noisy_sum(each, weights, settings, generator)
            mean += count / sum(counts) * noisy / (each.rate * each.declared)
        velocity = settings.momentum * velocity + mean
        weights = weights - settings.learning_rate * velocity
        average = settings.average_decay * average + (1 - settings.average_decay) * weights
        kept = settings.average_decay * kept + (1 - settings.average_decay)
    return average / kept


def _weight(hospital: Hospital, settings: Settings) -> float:
    divisor = hospital.rate * hospital.declared
    weights = {
        "declared": float(hospital.declared),
        "equal": 1.0,
        "noise": (divisor / hospital.noise) ** 2,  # the inverse variance of its gradient
    }
    return weights[settings.weights]


def noisy_sum(
    hospital: Hospital, weights: torch.Tensor, settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    """A patient's gradient is an outer product, whose norm is the product of two norms."""
    features, labels = hospital.features, hospital.labels
    if hospital.rate < 1:
        taken = torch.rand(len(labels), generator=generator) < hospital.rate
        features, labels = features[taken], labels[taken]
    errors = torch.softmax(features @ weights.T, dim=1) - torch.eye(2)[labels]
    errors = errors * torch.tensor(settings.class_weights)[labels, None]
    norms = errors.norm(dim=1) * features.norm(dim=1)
    clipped = errors * (settings.clip_norm / norms.clamp(min=settings.clip_norm))[:, None]
    noise = torch.randn(weights.shape, generator=generator)
    total: torch.Tensor = clipped.T @ features + hospital.noise * settings.clip_norm * noise
    return total


def divide(
    features: torch.Tensor, labels: torch.Tensor, settings: Settings, epsilon: float, seed: int
) -> list[Hospital]:
    """Four hospitals, nine tenths of whose patients train."""
    generator = np.random.default_rng(seed)
    found = []
    for members in dirichlet_partition(labels.numpy(), 4, 0.5, generator).sites:
        kept = torch.from_numpy(members[generator.random(len(members)) < 0.9])
        declared = len(kept) // 50 * 50  # coarse, so that few mechanisms are to be calibrated
        rate = min(1.0, settings.batch_size / declared)
        noise = calibrate(epsilon, composed(DELTA), rate, settings.rounds)
        found.append(Hospital(features[kept], labels[kept], declared, rate, noise))
    return found


def judge(settings: Settings, epsilon: float, seeds: int) -> dict[str, float]:
    """Mean figures over the seeds, each of which has one of the shifts."""
    arrays = np.load(data_file("pneumoniamnist"))
    pixels = np.concatenate([arrays["train_images"], arrays["val_images"]])
    labels = np.concatenate([arrays["train_labels"], arrays["val_labels"]]).ravel().astype(int)
    images = torch.from_numpy(pixels.astype(np.float32) / 255).unsqueeze(1)
    stem = Scattering(settings.scales, settings.orientations)
    features = stem((images - 0.5) / 0.25).flatten(1)
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    figures = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        known, held = shifts(images, labels)[(seed - FIRST_SEED) % 12]
        chosen = torch.from_numpy(labels[known])
        hospitals = divide(features[known], chosen, settings, epsilon, seed)
        weights = train(hospitals, settings, torch.Generator().manual_seed(seed))
        scores = features[held] @ (weights[1] - weights[0])
        figures.append(
            (
                roc_auc_score(labels[held], scores),
                balanced_accuracy_score(labels[held], scores > 0),
            )
        )
    auc, balanced = np.mean(figures, axis=0)
    return {"auc": round(float(auc), 4), "balanced_accuracy": round(float(balanced), 4)}


def main() -> None:
    """Judge the candidates named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--seeds", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for epsilon in given.epsilon:
        for name in given.names or CANDIDATES:
            settings = replace(Settings(), **CANDIDATES[name])
            line = {"candidate": name, "epsilon": epsilon, "seeds": given.seeds}
            print(json.dumps(line | judge(settings, epsilon, given.seeds)), flush=True)


if __name__ == "__main__":
    main()
