"""What a package's model says of images: the code of training and evaluation, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client.prediction.intake import Examination
from client.training.evaluation import outputs_for
from common.numerics import EngineChoice
from common.package.package import Package
from common.process.denormals import flushed
from common.scores.finding import Finding
from common.tasks.task import Task

CHOICE: Final = EngineChoice(tile=16)
"""How many images go through the model at once."""
BATCH: Final = 64
"""Images that are collected before the model is asked, so that it is not set up for each."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of an examination. Sensitive.

    Attributes:
        numbers: (columns,) float64, of all its images together.
        each: (images, columns), of each image alone.
        findings: the same in words, calibrated.
        masks: (images, height, width) uint8 at the study's size; None where none are made.
        rounds: (rounds, columns), what the models of the last rounds say.
        averaged: (columns,), what the mean of their weights says.
    """

    numbers: NDArray[np.float64]
    each: NDArray[np.float64]
    findings: tuple[Finding, ...]
    masks: NDArray[np.uint8] | None = field(repr=False)
    rounds: NDArray[np.float64] = field(repr=False)
    averaged: NDArray[np.float64] = field(repr=False)

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviation over the last rounds, (columns,); where it is large, do not rely."""
        return self.rounds.std(axis=0) if len(self.rounds) else np.full(len(self.numbers), np.nan)


def scored(
    package: Package, given: Iterable[Examination], *, rule: str = ""
) -> Iterator[tuple[Examination, Scores]]:
    """Each examination with what the model says of it, in order.

    Args:
        package: the model.
        given: prepared images.
        rule: the operating point that decides what counts as found; empty for the usual one.
    """
    waiting = list[Examination]()
    for each in given:
        waiting.append(each)
        if sum(len(one.images) for one in waiting) >= BATCH:
            yield from zip(waiting, _together(package, waiting, rule), strict=True)
            waiting = []
    if waiting:
        yield from zip(waiting, _together(package, waiting, rule), strict=True)


@flushed()
def outputs_of_weights(
    package: Package, weights: NDArray[np.float32], images: list[NDArray[np.float16]]
) -> list[torch.Tensor]:
    """The outputs of some weights for the images of each examination.

    Args:
        package: whose network it is.
        weights: flat float32.
        images: of each examination, (images, channels, height, width).
    """
    ends = np.cumsum([len(each) for each in images])
    rows = [np.arange(end - len(each), end) for end, each in zip(ends, images, strict=True)]
    every = np.concatenate(images)
    return list(outputs_for(package.study, weights, every, rows, choice=CHOICE))


def _together(package: Package, some: list[Examination], rule: str) -> list[Scores]:
    task, images = package.study.task, [each.images for each in some]
    adjustment = package.statement.adjustment
    own = outputs_of_weights(package, package.weights, images)
    rounds = [
        [task.numbers(each) for each in outputs_of_weights(package, weights, images)]
        for weights in package.earlier
    ]
    mean = package.earlier.mean(axis=0, dtype=np.float64) if rounds else package.weights
    averaged = outputs_of_weights(package, mean.astype(np.float32), images)
    found = []
    for place, outputs in enumerate(own):
        numbers = task.numbers(outputs)
        found.append(
            Scores(
                numbers=numbers,
                each=_each(task, outputs),
                findings=task.findings(numbers, adjustment, rule),
                masks=task.masks(outputs),
                rounds=np.array([one[place] for one in rounds]).reshape(-1, len(numbers)),
                averaged=task.numbers(averaged[place]),
            )
        )
    return found


def _each(task: Task, outputs: torch.Tensor) -> NDArray[np.float64]:
    return np.stack([task.numbers(one[None]) for one in outputs])
