"""What a package's model says of images: the code of training and evaluation, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client.prediction.intake import Examination
from client.training.evaluation import outputs_for
from client.training.footprint import looked_at
from client.training.tuning import images_of
from common.errors import PackageError
from common.models.networks import sketch
from common.numerics import EngineChoice
from common.package.package import Package
from common.process.denormals import flushed
from common.scores.adjustment import Adjustment
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


def require_room(package: Package) -> None:
    """Refuse a model that this machine cannot hold, before anything is read.

    Raises:
        PackageError: it needs more memory than the machine has.
    """
    study = package.study
    needed = looked_at(sketch(study), study.shape, CHOICE.tile * images_of(study))
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > has:
        raise PackageError(
            "the model needs more memory than this machine has",
            where=package.name,
            found=f"{needed / 2**30:.1f} GiB for {CHOICE.tile * images_of(study)} images at once",
            wanted=f"at most {has / 2**30:.1f} GiB",
            remedy="run it on a larger machine",
        )


def scored(
    package: Package, given: Iterable[Examination], *, rule: str = ""
) -> Iterator[tuple[Examination, Scores]]:
    """Each examination with what the model says of it, in order.

    Args:
        package: the model.
        given: prepared images.
        rule: the operating point that decides what counts as found; empty for the usual one.
    """
    task, adjustment = package.study.task, package.statement.adjustment
    others = list(package.earlier)
    others.append(
        np.mean(others, axis=0, dtype=np.float64).astype(np.float32) if others else package.weights
    )
    if package.study.heads.dense:
        for one in given:
            yield one, _outlined(package, one, others, rule)
        return
    for some in _batches(given):
        images = [each.images for each in some]
        numbers = [
            [task.numbers(each) for each in outputs_of_weights(package, weights, images)]
            for weights in others
        ]
        own = outputs_of_weights(package, package.weights, images)
        for one, outputs, each in zip(some, own, zip(*numbers, strict=True), strict=True):
            yield one, _scores(task, outputs, each, adjustment, rule)


def _outlined(
    package: Package, one: Examination, others: Sequence[NDArray[np.float32]], rule: str
) -> Scores:
    """Of a task with masks, a few images after another: outputs for each pixel are large.

    Args:
        package: the model.
        one: the examination.
        others: the weights of the last rounds, and last their mean.
        rule: as for :func:`scored`.
    """
    task, images = package.study.task, one.images
    each, masks = list[NDArray[np.float64]](), list[NDArray[np.uint8]]()
    totals = [np.zeros(len(task.columns())) for _ in others]
    for first in range(0, len(images), BATCH):
        some = [images[first : first + BATCH]]
        (outputs,) = outputs_of_weights(package, package.weights, some)
        each += [task.numbers(item[None]) for item in outputs]
        masks += [found for found in [task.masks(outputs)] if found is not None]
        for place, weights in enumerate(others):
            totals[place] += task.numbers(outputs_of_weights(package, weights, some)[0])
    numbers = np.sum(each, axis=0)
    return Scores(
        numbers=numbers,
        each=np.stack(each),
        findings=task.findings(numbers, package.statement.adjustment, rule),
        masks=np.concatenate(masks) if masks else None,
        rounds=np.array(totals[:-1]).reshape(-1, len(numbers)),
        averaged=totals[-1],
    )


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


def _scores(
    task: Task,
    outputs: torch.Tensor,
    others: Sequence[NDArray[np.float64]],
    adjustment: Adjustment,
    rule: str,
) -> Scores:
    """Of one examination.

    Args:
        task: of the study.
        outputs: of the package's model, (images, ...).
        others: what the models of the last rounds say, and last their averaged weights.
        adjustment: of the package.
        rule: the operating point that decides.
    """
    numbers = task.numbers(outputs)
    return Scores(
        numbers=numbers,
        each=np.stack([task.numbers(one[None]) for one in outputs]),
        findings=task.findings(numbers, adjustment, rule),
        masks=None,
        rounds=np.array(others[:-1]).reshape(-1, len(numbers)),
        averaged=others[-1],
    )
