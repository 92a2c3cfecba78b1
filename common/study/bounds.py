"""Every number of a study and of a plan's mechanism, with the smallest and largest value allowed.

The range holds what somebody could honestly want. An attacker breaks arithmetic with numbers
far outside it: squares that vanish, sums that overflow, factors that round up. The engine's
arithmetic is safe without these bounds; they are the second line of defence.

This one list decides what a study file and a received plan may say, what a hospital's
``[policy.ranges]`` may narrow, and what ``consilium-site show`` prints and calls unusual.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from common.bounded import Bound, plain
from common.models.models import MODELS
from common.models.spec import ADAPTERS, PROJECTION
from common.strategies.strategies import OPTIONS
from common.tasks.tasks import TASKS

Ends = tuple[float, float]
Study = Any
"""A :class:`common.study.study_file.Study`, whose class is made of these bounds: importing it here,
even for its name alone, would close a circle."""


def _at(
    place: str,
    name: str,
    ends: Ends,
    usual: Ends,
    why: str,
    *,
    key: str | None = None,
    zero: bool = False,
    unit: str = "",
    of: Callable[[Study], float | None] | None = None,
) -> Bound:
    key = key or place.rpartition(".")[2]
    return Bound(place, key, name, *ends, usual, why, zero=zero, unit=unit, of=of)


# fmt: off
# Tables: place, name, allowed range, usual range, reason.
FIELDS: Final = (
    _at("data.min_patients", "minimum patients of a site", (1, 1e6), (1, 1e5),
        why="a study needs patients, and no hospital has more than the largest number"),
    _at("data.image_size", "image size, pixels", (4, 4096), (16, 1024),
        why="smaller images show nothing; larger ones do not fit in memory"),
    _at("data.mean", "mean subtracted from each pixel", (1e-4, 1), (0, 1), zero=True,
        why="pixels are between 0 and 1, and so is their mean"),
    _at("data.std", "standard deviation that each pixel is divided by", (1e-3, 100), (0.05, 1),
        why="pixels are between 0 and 1: less makes them huge, more makes them vanish"),
    _at("data.spacing", "pixel spacing, mm", (0.001, 100), (0.05, 10),
        why="no image is finer, and a pixel of ten centimetres shows nothing"),
    *dict.fromkeys(each for model in MODELS for each in model.bounds),
    ADAPTERS,
    PROJECTION,
    _at("training.rounds", "training rounds", (1, 100_000), (1, 1000),
        why="each round costs privacy and network traffic"),
    _at("training.local_steps", "steps in a round", (1, 100_000), (1, 200),
        why="each step costs privacy"),
    _at("training.batch_size", "patients in a step, on average", (1, 1e6), (16, 10_000),
        why="no hospital has more patients; a site with fewer uses all of them in every step"),
    _at("training.learning_rate", "learning rate", (1e-6, 1000), (1e-3, 20),
        why="less learns nothing; more makes training unstable"),
    _at("training.momentum", "momentum", (1e-3, 0.999), (0, 0.95), zero=True,
        why="less has no effect; more averages over a thousand steps"),
    _at("training.weight_decay", "weight decay", (1e-8, 1), (0, 0.1), zero=True,
        why="less has no effect; more removes the weights"),
    *dict.fromkeys(each for task in TASKS for each in task.bounds),
    _at("training.images_per_patient", "images of a patient in a step", (1, 64), (1, 8),
        why="they are averaged: more cost memory and change little"),
    _at("training.augmentation.rotate", "rotation, degrees", (0.01, 180), (0, 45), zero=True,
        why="180 degrees either way covers every rotation"),
    _at("training.augmentation.crop", "shift, share of a side", (1e-3, 0.5), (0, 0.25), zero=True,
        why="beyond one half, little of the image is left"),
    _at("training.augmentation.zoom", "zoom, share of a side", (1e-3, 0.5), (0, 0.25), zero=True,
        why="beyond one half, little of the image is left"),
    _at("training.augmentation.intensity", "change of contrast", (1e-3, 1), (0, 0.5), zero=True,
        why="beyond 1, light and dark swap"),
    _at("training.augmentation.copies", "augmented copies of an image", (1, 64), (1, 16),
        why="they are averaged: more cost memory and change little"),
    _at("privacy.epsilon", "epsilon of the study", (1e-3, 1000), (0.1, 10),
        why="less leaves only noise; more protects nobody"),
    _at("privacy.delta", "delta", (1e-12, 0.1), (1e-9, 1e-2),
        why="less is lost in the accountant's rounding; more lets the protection fail too often"),
    _at("privacy.clip_norm", "clip norm", (1e-3, 1000), (0.1, 10),
        why="honest gradients have lengths in this range; the learning rate does the rest"),
    _at("evaluation.rounds", "rounds that are evaluated", (1, 100_000), (1, 1000),
        key="evaluation_rounds",
        why="a study has no other rounds"),
    _at("evaluation.bins", "cells of a histogram", (2, 1000), (4, 100),
        why="two cells separate right from wrong; a thousand cells hold only noise"),
    _at("evaluation.images_per_patient", "images of a patient in an evaluation", (1, 64), (1, 64),
        key="evaluation_images_per_patient",
        why="they are averaged: more take time and change little"),
    _at("evaluation.epsilon_share", "evaluation's share of epsilon", (1e-4, 1), (0.01, 1),
        why="less leaves only noise; 1 is the whole epsilon"),
    *OPTIONS,
    _at("aggregation.min_sites", "minimum number of hospitals combined in one result",
        (1, 10_000), (2, 100),
        why="no study has more sites"),
    _at("aggregation.max_share", "largest share of one site in the average", (1e-3, 1), (0.1, 1),
        why="1 means no limit; less than 1 / min_sites is impossible"),
    _at("aggregation.round_timeout", "longest wait for a round",
        (0.1, 30 * 86_400), (60, 86_400), unit="s",
        why="a request expires after 30 days"),
    _at("aggregation.approval_timeout", "longest wait for approvals",
        (0.1, 365 * 86_400), (3600, 30 * 86_400), unit="s",
        why="nobody waits longer than a year"),
    _at("aggregation.average_decay", "decay of the averaged model", (1e-3, 0.9999), (0, 0.99),
        zero=True,
        why="less has no effect; more averages over ten thousand rounds"),
    _at("fixed_point.fraction_bits", "fraction bits of an update's numbers", (8, 46),
        (16, 40),
        why="with fewer the update is rounded away; with more a change of 1 does not fit"),
)
"""Numbers of a study."""

MECHANISM: Final = (
    _at("step.sampling_rate", "share of the patients in a step", (1e-9, 1), (1e-3, 1),
        key="step_sampling_rate",
        why="from one patient in a thousand million to all patients"),
    _at("sampling_rate", "share of the patients in a step", (1e-9, 1), (1e-3, 1),
        why="from one patient in a thousand million to all patients"),
    _at("step.noise_multiplier", "noise on a step, times the clip norm", (0.1, 2000), (0.3, 100),
        why="less protects nobody; more leaves only noise"),
    _at("step.count", "steps that one entry of the plan covers", (1, 10_000_000), (1, 1),
        key="step_count",
        why="ten times the steps that a study may have"),
    _at("most_sampled", "patients in a step, at most", (1, 1e9), (1, 100_000),
        why="a step needs a patient, and no hospital has more than the largest number"),
    _at("evaluation.sampling_rate", "share of the patients in an evaluation", (1e-9, 1), (1, 1),
        key="evaluation_sampling_rate",
        why="from one patient in a thousand million to all patients"),
    _at("evaluation.noise_multiplier", "noise on an evaluation, times one patient's vote",
        (0.1, 2000), (0.3, 100), key="evaluation_noise_multiplier",
        why="less protects nobody; more leaves only noise"),
    _at("evaluation.count", "evaluations that one entry of the plan covers",
        (1, 10_000_000), (1, 1), key="evaluation_count",
        why="ten times the steps that a study may have"),
    _at("divisor", "number of patients that a sum is divided by", (0.99, 1.01e6), (16, 10_000),
        why="the range of the batch size, with room for rounding"),
    _at("cell_noise", "noise on a cell of a histogram", (0.1, 20_000), (0, 1000), zero=True,
        why="less protects nobody; more leaves only noise"),
    _at("epsilon_training", "epsilon of training", (0, 1000), (0, 10),
        why="0 is the minimum, and no study may ask for more"),
    _at("epsilon_evaluation", "epsilon of evaluation", (0, 1000), (0, 10),
        why="0 is the minimum, and no study may ask for more"),
)
"""Numbers of a plan's mechanism, except clip norm and delta, which are the study's."""


def _step_length(study: Study) -> float | None:
    training, clip_norm = study.training, getattr(study.privacy, "clip_norm", None)
    if clip_norm is None:
        return None
    return float(training.learning_rate * clip_norm / (1 - training.momentum))


def _patient(study: Study) -> int:
    return int(study.training.images_per_patient * study.training.augmentation.copies)


def _image(study: Study) -> int:
    return int(math.prod(study.data.image_size) * study.data.channels)


def _class_rate(study: Study) -> float:
    return float(study.training.learning_rate * study.task.largest_factor)


def _forgetting(study: Study) -> float:
    pull = study.training.weight_decay + study.aggregation.options.pull
    return float(study.training.learning_rate * pull)


def _cells(study: Study) -> int:
    return int(study.task.release(study.evaluation.bins).size)


COMBINED: Final = (
    _at("training.rounds x local_steps", "total steps", (1, 1_000_000), (1, 20_000), key="steps",
        of=lambda study: study.training.rounds * study.training.local_steps,
        why="the privacy accounting of more steps takes minutes"),
    _at("data.image_size x channels", "numbers in an image", (16, 2**24), (256, 2**20),
        key="image_numbers", of=_image,
        why="larger images do not fit in memory"),
    _at("training.images_per_patient x augmentation.copies",
        "images of a patient, augmented copies included", (1, 256), (1, 64),
        key="patient_images", of=_patient,
        why="they are averaged: more cost memory and change little"),
    _at("data.image_size x channels x training.images_per_patient x augmentation.copies",
        "numbers in a patient's images in a step", (16, 2**26), (256, 2**22),
        key="patient_numbers", of=lambda study: _image(study) * _patient(study),
        why="all images of a patient are in memory at the same time"),
    _at("training.learning_rate x privacy.clip_norm / (1 - training.momentum)",
        "how far patients can move the weights", (1e-6, 1e5), (0.01, 100),
        key="step_length", of=_step_length,
        why="less is lost in rounding; more makes training unstable"),
    _at("training.learning_rate x the largest of task.class_weights",
        "learning rate of the class with the largest weight", (1e-6, 10_000), (1e-3, 100),
        key="class_rate", of=_class_rate,
        why="less learns nothing; more makes training unstable"),
    _at("training.learning_rate x (training.weight_decay + aggregation.options.proximal_mu)",
        "share of the weights that a step removes", (1e-15, 1), (0, 0.5), zero=True,
        key="forgetting", of=_forgetting,
        why="a step that removes more than the whole weight makes training diverge"),
    _at("task.classes and evaluation.bins", "numbers in a histogram", (4, 1_000_000), (4, 10_000),
        key="histogram_numbers", of=_cells,
        why="each number gets its own noise: more of them hold only noise"),
    _at("evaluation.rounds, how many", "number of evaluations", (1, 100_000), (0, 20), zero=True,
        key="evaluations", of=lambda study: len(study.evaluation_rounds),
        why="each round can be evaluated once"),
)
"""Numbers computed from several of a study's: each may be allowed where all together are not."""
# fmt: on

BOUNDS: Final = (*FIELDS, *COMBINED, *MECHANISM)
BY_KEY: Final = {bound.key: bound for bound in BOUNDS}
_BY_PLACE: Final = {bound.place: bound for bound in FIELDS}


def bound(place: str) -> Bound:
    """What the number at a place of a study may be, for its annotation."""
    return _BY_PLACE[place]


def range_of(key: str, ends: Ends) -> Ends:
    """Check a range that a policy gives a number.

    Raises:
        ValueError: there is no such number, or the range allows what no study may say, or nothing.
    """
    each = BY_KEY.get(key)
    if each is None:
        near = difflib.get_close_matches(key, BY_KEY, n=1)
        raise ValueError(
            f"{key}: unknown key; "
            + (f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(BY_KEY))}")
        )
    low, high = ends
    if not (each.allows(low) and each.allows(high) and low <= high):
        raise ValueError(
            f"{key} = [{plain(low)}, {plain(high)}]: should be the smallest and the largest number "
            f"that you allow, within the range that a study may use: {each.allowed}"
        )
    return ends


@dataclass(frozen=True)
class Stated:
    """What a plan says for one bound: a number, or several of a kind.

    Attributes:
        bound: what it may be.
        values: the numbers; seconds for a duration.
    """

    bound: Bound
    values: tuple[float, ...]

    @property
    def text(self) -> str:
        """The numbers, in words."""
        return ", ".join(map(self.bound.say, self.values))

    @property
    def usual(self) -> bool:
        """Whether none needs a second look."""
        return all(map(self.bound.is_usual, self.values))

    def within(self, ends: Ends) -> bool:
        """Whether a policy that allows this range allows them all."""
        return all(ends[0] <= number <= ends[1] for number in self.values)


@lru_cache(maxsize=64)
def stated(study: Study, mechanism: object = None) -> tuple[Stated, ...]:
    """Every number that a study and a mechanism state, in the order of the list.

    What is left out, or does not exist without privacy, is not among them.
    """
    return tuple(_stated(study, mechanism))


def _stated(study: Study, mechanism: object) -> Iterator[Stated]:
    for each in BOUNDS:
        if each.of is not None:
            found: Any = each.of(study)
        else:
            found = _read(mechanism if each in MECHANISM else study, each.place)
        values = found if isinstance(found, tuple) else (found,)
        if numbers := tuple(_numbers(each, values)):
            yield Stated(each, numbers)


def require_combined(study: Study) -> None:
    """Refuse numbers that together are beyond a bound, each by itself within its own.

    Raises:
        ValueError: names how they are put together, what comes of it, and what would be allowed.
    """
    for each in COMBINED:
        number = each.of(study) if each.of else None
        if number is not None and not each.allows(number):
            raise ValueError(
                f"{each.place} is {each.say(number)}; should be {each.allowed}: {each.why}"
            )


def require_mechanism(mechanism: object) -> None:
    """Refuse a mechanism of :mod:`common.privacy.mechanisms` with a number beyond its ends.

    A mechanism by itself may have any: tests compute with hardly any noise.

    Raises:
        ValueError: names the number, what was found and what would be allowed.
    """
    for each in MECHANISM:
        number = _read(mechanism, each.place)
        if number is not None and not each.allows(number):
            raise ValueError(f"{each.place} is {number:g}; should be {each.allowed}: {each.why}")


def _read(root: object, place: str) -> Any:  # noqa: ANN401 - a field of any type
    for name in place.split("."):
        root = getattr(root, name, None)
    return root


def _numbers(each: Bound, values: tuple[Any, ...]) -> Iterator[float]:
    for value in values:
        if each.unit == "s" and isinstance(value, str):
            yield each.measure(value)
        elif value is not None and not isinstance(value, str):
            yield value
