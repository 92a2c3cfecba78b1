"""What of a model hospitals of a size can train privately: ``consilium-sim advise``.

From public numbers alone: no hospital is asked and no patient is read. The measure is
:func:`common.privacy.loudness.loudness`; what it meant on real images is in ``docs/utility.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from common.errors import ConsiliumError, PrivacyError, StudyError
from common.models.networks import trained_count
from common.privacy.loudness import loudness
from common.privacy.mechanisms import mechanism
from common.study.study_file import PatientPrivacy, Study
from server.study.weighing import weigh

CLEAR: Final = 0.1
"""Below this loudness noise cost little."""
MOST: Final = 1_000_000
"""Patients of a hospital."""
ROOM: Final = 2
"""A hospital may have so many times the patients that it declares."""
WAYS: Final[dict[str, dict[str, Any]]] = {
    "as the study says": {},
    "the head and all norms": {"trainable": ("head", "norms"), "adapters": None},
    "the head": {"trainable": ("head",), "adapters": None},
    "the head, projection = 64": {"trainable": ("head",), "adapters": None, "projection": 64},
    "the head, projection = 8": {"trainable": ("head",), "adapters": None, "projection": 8},
}
"""What of the model may be trained, in words, and as ``[model]`` says it."""


@dataclass(frozen=True)
class Advice:
    """How loud the noise would be.

    Attributes:
        way: of :data:`WAYS`.
        trained: weights.
        loud: by epsilon; None where no noise keeps it.
    """

    way: str
    trained: int
    loud: dict[float, float | None]


def numbers(text: str) -> tuple[int, ...]:
    """The patients of hospitals, as a person writes them.

    Raises:
        StudyError: it is no list of numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MOST for part in parts):
        raise StudyError(
            "this is no list of numbers of patients",
            where="--patients",
            found=text,
            wanted=f"whole numbers from 1 to {MOST}, with commas",
            remedy="write how many patients each hospital has: --patients 40,60,25,80",
        )
    return tuple(int(part) for part in parts)


def advise(study: Study, patients: Sequence[int], epsilons: Sequence[float]) -> tuple[Advice, ...]:
    """How loud the noise of a study would be, by what of its model is trained.

    Args:
        study: with privacy.
        patients: that hospitals declare for training.
        epsilons: to try.

    Raises:
        StudyError: the study has no privacy, or a number is out of range.
        ModelError: the model cannot be built.
    """
    if not isinstance(study.privacy, PatientPrivacy):
        raise StudyError(
            "a study without privacy has no noise to advise on",
            where="[privacy] mode",
            found="none",
            wanted="patient",
            remedy='write mode = "patient" and an epsilon',
        )
    found: dict[int, Advice] = {}
    for way, one in ways(study):
        # Of two ways that train as many weights, the first is what the study says.
        if (trained := trained_count(one)) not in found:
            loud = {each: _loud(one, patients, each) for each in epsilons}
            found[trained] = Advice(way, trained, loud)
    return tuple(found.values())


def ways(study: Study) -> Iterator[tuple[str, Study]]:
    """The study, and the same with less of its model trained, in words."""
    for way, changes in WAYS.items():
        # A one-shot study has a projected head and nothing else.
        if study.one_shot and changes and not changes.get("projection"):
            continue
        one = study.model_copy(update={"model": study.model.model_copy(update=changes)})
        try:
            trained_count(one)
        except ConsiliumError:
            if changes:
                continue  # a model without norms, or whose head is no dense layer
            raise
        yield way, one


def _loud(study: Study, patients: Sequence[int], epsilon: float) -> float | None:
    try:
        privacy = PatientPrivacy.model_validate({**study.privacy.model_dump(), "epsilon": epsilon})
    except ValidationError as error:
        raise StudyError(
            "no study has this epsilon",
            where="--epsilon",
            found=epsilon,
            wanted="0.001 to 1000",
            remedy="write another number, for example --epsilon 8",
        ) from error
    one = study.model_copy(update={"privacy": privacy})
    names = [str(number) for number in range(len(patients))]
    weights = weigh(study.aggregation, dict(zip(names, patients, strict=True)))
    try:
        found = [mechanism(one, number, ROOM * number) for number in patients]
    except PrivacyError:
        return None
    training = study.training
    each = zip(weights.values(), found, strict=True)
    return loudness(each, trained_count(study), training.rounds * training.local_steps)
