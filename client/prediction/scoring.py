"""What a package's model says of images: the code of training and evaluation, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client.prediction.intake import Examination
from client.training.evaluation import outputs_for
from client.training.footprint import evaluated, looked_at
from client.training.tuning import images_of
from common.errors import PackageError
from common.models.networks import sketch
from common.numerics import EngineChoice
from common.package.package import Package
from common.process.denormals import flushed
from common.process.memory import memory
from common.scores.finding import Finding

TILE: Final = 16
"""How many times a patient's images of training go through the model at once, where they fit."""
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


def choice_for(package: Package) -> EngineChoice:
    """How much goes through the model at once: what fits into this process's memory.

    Raises:
        PackageError: not even the images of one patient of training do.
    """
    study, has = package.study, memory()
    shape, network = study.shape, sketch(study)
    kept = evaluated(shape, study.task, items=BATCH)
    for tile in (TILE, TILE // 4, 1):
        needed = kept + looked_at(network, shape, tile * images_of(study))
        if needed <= has:
            return EngineChoice(tile=tile)
    raise PackageError(
        "the model needs more memory than there is",
        where=package.name,
        found=f"{needed / 2**30:.1f} GiB, with {images_of(study)} images in the model at once",
        wanted=f"at most {has / 2**30:.1f} GiB",
        remedy="run it on a larger machine, or where a container has more memory",
    )


def scored(
    package: Package, given: Iterable[Examination], *, choice: EngineChoice, rule: str = ""
) -> Iterator[tuple[Examination, Scores]]:
    """Each examination with what the model says of it, in order.

    Args:
        package: the model.
        given: prepared images.
        choice: how much goes through the model at once.
        rule: the operating point that decides what counts as found; empty for the usual one.
    """
    others = list(package.earlier)
    others.append(
        np.mean(others, axis=0, dtype=np.float64).astype(np.float32) if others else package.weights
    )
    of_some = _outlined if package.study.heads.dense else _told
    for some in _batches(given):
        yield from zip(some, of_some(package, some, others, choice, rule), strict=True)


def _told(
    package: Package,
    some: Sequence[Examination],
    others: Sequence[NDArray[np.float32]],
    choice: EngineChoice,
    rule: str,
) -> Iterator[Scores]:
    """Of a task with an answer for each image.

    Args:
        package: the model.
        some: examinations.
        others: the weights of the last rounds, and last their mean.
        choice: as for :func:`scored`.
        rule: as there.
    """
    task, images = package.study.task, [each.images for each in some]
    numbers = [
        [task.numbers(each) for each in outputs_of_weights(package, weights, images, choice)]
        for weights in others
    ]
    own = outputs_of_weights(package, package.weights, images, choice)
    for outputs, *rest in zip(own, *numbers, strict=True):
        each = np.stack([task.numbers(one[None]) for one in outputs])
        yield _scores(package, task.numbers(outputs), each, None, others=rest, rule=rule)


def _outlined(
    package: Package,
    some: Sequence[Examination],
    others: Sequence[NDArray[np.float32]],
    choice: EngineChoice,
    rule: str,
) -> Iterator[Scores]:
    """Of a task with masks, a few images after another: outputs for each pixel are large.

    Args:
        package: as for :func:`_told`.
        some: as there.
        others: as there.
        choice: as there.
        rule: as there.
    """
    task, every = package.study.task, np.concatenate([each.images for each in some])
    owner = np.repeat(np.arange(len(some)), [each.count for each in some])
    each, masks = list[NDArray[np.float64]](), list[NDArray[np.uint8]]()
    totals = np.zeros((len(others), len(some), len(task.columns())))
    for first in range(0, len(every), BATCH):
        part = [every[first : first + BATCH]]
        (outputs,) = outputs_of_weights(package, package.weights, part, choice)
        each += [task.numbers(item[None]) for item in outputs]
        masks += [found for found in [task.masks(outputs)] if found is not None]
        for place, weights in enumerate(others):
            (outputs,) = outputs_of_weights(package, weights, part, choice)
            for whose, item in zip(owner[first:], outputs, strict=False):
                totals[place, whose] += task.numbers(item[None])
    numbers, pixels = np.array(each), np.concatenate(masks)
    for number in range(len(some)):
        mine = owner == number
        whole, rest = numbers[mine].sum(0), list(totals[:, number])
        yield _scores(package, whole, numbers[mine], pixels[mine], others=rest, rule=rule)


def _batches(given: Iterable[Examination]) -> Iterator[list[Examination]]:
    waiting = list[Examination]()
    for each in given:
        waiting.append(each)
        if sum(one.count for one in waiting) >= BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


@flushed()
def outputs_of_weights(
    package: Package,
    weights: NDArray[np.float32],
    images: list[NDArray[np.float16]],
    choice: EngineChoice,
) -> list[torch.Tensor]:
    """The outputs of some weights for the images of each examination.

    Args:
        package: whose network it is.
        weights: flat float32.
        images: of each examination, (images, channels, height, width).
        choice: as for :func:`scored`.
    """
    ends = np.cumsum([len(each) for each in images])
    rows = [np.arange(end - len(each), end) for end, each in zip(ends, images, strict=True)]
    every = images[0] if len(images) == 1 else np.concatenate(images)
    return list(outputs_for(package.study, weights, every, rows, choice=choice))


def _scores(
    package: Package,
    numbers: NDArray[np.float64],
    each: NDArray[np.float64],
    masks: NDArray[np.uint8] | None,
    *,
    others: Sequence[NDArray[np.float64]],
    rule: str,
) -> Scores:
    """Of one examination.

    Args:
        package: the model.
        numbers: of all its images together.
        each: of each image.
        masks: of each image, where there are some.
        others: what the models of the last rounds say, and last their averaged weights.
        rule: the operating point that decides.
    """
    return Scores(
        numbers=numbers,
        each=each,
        findings=package.study.task.findings(numbers, package.statement.adjustment, rule),
        masks=masks,
        rounds=np.array(others[:-1]).reshape(-1, len(numbers)),
        averaged=others[-1],
    )
