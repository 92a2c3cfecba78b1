"""What a study's ways to train reach on drawn radiographs: the curve behind advice.

Hospitals of the sizes that are asked about train whole studies in memory, on radiographs that no
patient is in, with the noise that each epsilon costs; what they reach is measured on others. It
tells which way copes with the noise, not what real images would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client.training.evaluation import outputs_of
from client.training.features import in_rounds
from client.training.tuning import modelled, room
from common.errors import ModelError, PrivacyError, RoundError, StudyError
from common.models.initial import Arrays
from common.models.networks import flatten, seeded_model, trained_count
from common.numerics import EngineChoice
from common.privacy.mechanisms import mechanism
from common.process.progress import Progress
from common.study.study_file import PatientPrivacy, Study
from server.study.rounds import shared_weights
from simulations.advice.advice import ROOM, ways
from simulations.advice.drawn import DrawnHospitals
from simulations.pretraining.whitening import whiten
from simulations.runs.in_memory import Trained, rounds_in_memory

MEMORY: Final = 2**30
MOST_PATIENTS: Final = 4000
"""Of all hospitals together that are drawn."""
MOST_WORK: Final = 2**46
"""Floating-point operations of a study that is tried: some minutes."""
ONE_RELEASE: Final = "one release"


@dataclass(frozen=True)
class Tried:
    """What a way to train reached.

    Attributes:
        way: in words.
        trained: weights.
        reached: AUC by epsilon; None where it was not tried, or training ran away.
    """

    way: str
    trained: int
    reached: dict[float, float | None]


def curve(
    study: Study,
    patients: Sequence[int],
    epsilons: Sequence[float],
    progress: Progress,
    initial: Arrays | None = None,
) -> tuple[Tried, ...]:
    """What each way reaches at each epsilon.

    Args:
        study: model, image size and training are taken from it.
        patients: that hospitals declare.
        epsilons: to try.
        progress: told of each study that ended.
        initial: the study's public starting weights.

    Raises:
        StudyError: drawn radiographs have no labels for its task.
        ModelError: the model cannot be built.
    """
    if study.task.target != "label" or study.heads.outputs != 2:
        raise StudyError(
            "drawn radiographs show whether there is an opacity, and nothing else",
            where="[task]",
            found=f"{study.task.kind} with {study.heads.outputs} outputs",
            wanted="labels of two classes",
            remedy="leave --draw out, or try the study on hospitals that consilium-sim hospitals "
            "makes",
        )
    if sum(patients) > MOST_PATIENTS:
        raise StudyError(
            "too many radiographs would have to be drawn",
            where="--patients",
            found=sum(patients),
            wanted=f"at most {MOST_PATIENTS} together",
            remedy="leave --draw out: with so many patients noise is seldom what limits a study",
        )
    drawn = DrawnHospitals(study, patients)
    every = list(_studies(study))
    found = []
    with progress("trying", len(every) * len(epsilons), unit="studies") as job:
        for way, one in every:
            reached: dict[float, float | None] = {}
            for epsilon in epsilons:
                reached[epsilon] = _reached(one, patients, epsilon, drawn, initial)
                job.advance()
            found.append(Tried(way, trained_count(one), reached))
    return tuple(found)


def _studies(study: Study) -> Iterator[tuple[str, Study]]:
    """The ways to train by rounds, and of each projection also one release."""
    for way, one in ways(study):
        yield way, one
        if one.model.projection and not one.one_shot:
            yield f"{way}, {ONE_RELEASE}", _released(one)


def _released(study: Study) -> Study:
    """The same model, from one release."""
    document: dict[str, Any] = study.model_dump(mode="json", exclude_none=True)
    model = {key: value for key, value in document["model"].items() if key != "trainable"}
    few = {"min_sites": study.aggregation.min_sites}
    cost = {key: document["privacy"][key] for key in ("mode", "epsilon", "delta")}
    changed = {"training": {"method": "one-shot"}, "aggregation": few, "model": model}
    changed["privacy"] = cost
    return Study.model_validate(document | changed)


def _reached(
    study: Study,
    patients: Sequence[int],
    epsilon: float,
    drawn: DrawnHospitals,
    initial: Arrays | None,
) -> float | None:
    privacy = PatientPrivacy.model_validate({**study.privacy.model_dump(), "epsilon": epsilon})
    study = study.model_copy(update={"privacy": privacy})
    try:
        planned = [mechanism(study, number, ROOM * number) for number in patients]
        choice = modelled(in_rounds(study), MEMORY)
        if _work(study, patients) > MOST_WORK:
            return None
        sites = {
            str(number): Trained(each, *drawn.sites[number], weight=patients[number])
            for number, each in enumerate(planned)
        }
        weights = _begun(study, drawn, initial)
        *_, last = rounds_in_memory(study, sites, weights, seed=0, choice=choice)
    except (PrivacyError, RoundError, ModelError):  # a projection of more than the features, too
        return None
    return _judged(study, shared_weights(study, last), drawn, choice)


def _begun(study: Study, drawn: DrawnHospitals, initial: Arrays | None) -> npt.NDArray[np.float32]:
    """All weights of round zero; a projection is whitened, as ``consilium-sim pretrain`` does."""
    model = seeded_model(study, 0, initial)
    if study.model.projection:
        whiten(model, study, [drawn.public])
    return flatten(model)


def _work(study: Study, patients: Sequence[int]) -> float:
    training = study.training
    batch = min(training.batch_size, math.fsum(patients) / len(patients))
    steps = training.rounds * training.local_steps * len(patients)
    return room(in_rounds(study)).work * batch * steps


def _judged(
    study: Study, weights: npt.NDArray[np.float32], drawn: DrawnHospitals, choice: EngineChoice
) -> float | None:
    images, patients = drawn.test
    exact = study.task.exact(outputs_of(study, weights, images, patients, choice=choice))
    return exact.values[study.task.headline].value
