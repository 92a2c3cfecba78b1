"""Small models that have really learned something, in a second each: to find a bright square.

Every image has a dark square at a random place too, which says nothing: a method that only shows
what is conspicuous points at it as often.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from common.models.networks import seeded_model
from common.study.study_file import Study
from tests.common.studies import small_study

SIDE: Final = 32
SQUARE: Final = 8
_APART: Final = SQUARE + 2
_MODELS: Final[dict[str, dict[str, Any]]] = {
    "cnn": {"widths": [8, 16], "norm": "group", "groups": 4},
    "resunet": {"widths": [8, 16]},
    "unet": {"widths": [8, 16]},
    "scattering": {},
}
_DENSE: Final = ("resunet", "unet")


class Images(NamedTuple):
    """Images (n, 1, side, side), their labels, and masks of the bright square."""

    pixels: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


def study_of(model: str) -> Study:
    """Whether, or where, there is a bright square; for ``scattering``, in which half it is.

    A linear model cannot learn one square at all places at once.
    """
    task = {"kind": "segmentation", "classes": ["square"]} if model in _DENSE else {}
    return small_study(
        task=task, model={"name": model, **_MODELS[model]}, data={"image_size": [SIDE, SIDE]}
    )


@lru_cache
def images(count: int, seed: int, *, halves: bool = False) -> Images:
    """Every second image is of class 1; with ``halves`` each has a square, in its class's half."""
    draw = np.random.default_rng(seed)
    pixels = (0.4 + 0.05 * draw.standard_normal((count, 1, SIDE, SIDE))).astype(np.float32)
    labels = np.arange(count) % 2
    masks = np.zeros((count, SIDE, SIDE), np.int64)
    for image, label in enumerate(labels):
        top, left, dark_top, dark_left = draw.integers(0, SIDE - SQUARE + 1, 4)
        while max(abs(top - dark_top), abs(left - dark_left)) < _APART or (
            halves and ((left > SIDE // 2) != label or SIDE // 2 - SQUARE < left <= SIDE // 2)
        ):
            top, left, dark_top, dark_left = draw.integers(0, SIDE - SQUARE + 1, 4)
        pixels[image, 0, dark_top : dark_top + SQUARE, dark_left : dark_left + SQUARE] -= 0.3
        if label or halves:
            masks[image, top : top + SQUARE, left : left + SQUARE] = 1
            pixels[image, 0][masks[image] == 1] += 0.3
    return Images(
        torch.from_numpy(pixels.clip(0, 1)), torch.from_numpy(labels), torch.from_numpy(masks)
    )


@lru_cache
def learned(name: str) -> tuple[Study, torch.nn.Module]:
    """A study and its trained model, which gets nearly all unseen images right."""
    study = study_of(name)
    halves = name == "scattering"
    steps, batch, rate = (150, 64, 3e-2) if halves else (80, 16, 5e-3)
    seen, unseen = images(512, 0, halves=halves), images(64, 1, halves=halves)
    model = seeded_model(study, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        some = torch.randint(0, len(seen.labels), (batch,), generator=draws)
        targets = (seen.masks if study.heads.dense else seen.labels)[some]
        optimiser.zero_grad()
        functional.cross_entropy(_outputs(study, model, seen.pixels[some]), targets).backward()
        optimiser.step()
    with torch.no_grad():
        said = _outputs(study, model, unseen.pixels).argmax(dim=1)
    right = said == (unseen.masks if study.heads.dense else unseen.labels)
    assert right.float().mean() > 0.97
    return study, model


def examples(name: str) -> list[tuple[torch.Tensor, np.ndarray[Any, np.dtype[np.bool_]]]]:
    """Six unseen images of class 1, each with where its square is."""
    some = images(12, 2, halves=name == "scattering")
    return [
        (some.pixels[place], some.masks[place].numpy() == 1)
        for place in range(12)
        if some.labels[place]
    ]


def _outputs(study: Study, model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = model((pixels - study.data.mean) / study.data.std)
    return output
