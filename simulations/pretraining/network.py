"""A study's network, trained on every patient together and without privacy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.models.initial import Arrays
from common.models.networks import initial_weights
from common.privacy.mechanisms import mechanism
from common.study.aggregation import AggregationSettings
from common.study.study_file import Evaluation, NoPrivacy, Study, Training
from simulations.runs.baselines import Holding, together
from simulations.runs.in_memory import Trained, rounds_in_memory

_NAME: Final = "pretraining"


@dataclass(frozen=True)
class Schedule:
    """How long the network is trained before it is handed out.

    Attributes:
        rounds: steps; 0 leaves the weights as they begin.
        learning_rate: of the first.
        batch_size: patients in a step, on average.
        seed: of the weights that no file has, and of the draws.
    """

    rounds: int = 0
    learning_rate: float = 0.1
    batch_size: int = 64
    seed: int = 0


def whole(study: Study, schedule: Schedule) -> Study:
    """The study with every weight trained, without privacy."""
    plain = {"initial": None, "trainable": (), "adapters": None}
    training = Training(
        rounds=max(schedule.rounds, 1),
        learning_rate=schedule.learning_rate,
        batch_size=schedule.batch_size,
        images_per_patient=study.training.images_per_patient,
        augmentation=study.training.augmentation,
    )
    changes = {
        "model": study.model.model_copy(update=plain),
        "training": training,
        "privacy": NoPrivacy(mode="none"),
        "evaluation": Evaluation(rounds="none"),
        "aggregation": AggregationSettings(),
    }
    return study.model_copy(update=changes)


def trained(
    study: Study, holdings: list[Holding], schedule: Schedule, start: Arrays | None
) -> Iterator[NDArray[np.float32]]:
    """The weights after each round on all patients together; none where there is no round."""
    if not schedule.rounds:
        return
    images, patients, masks = together(holdings)
    declared = sum(each.declared_patients for each in holdings)
    planned = mechanism(study, declared, sum(each.most_patients for each in holdings))
    states = rounds_in_memory(
        study,
        {_NAME: Trained(planned, images, patients, masks)},
        initial_weights(study, schedule.seed, start),
        seed=schedule.seed,
        choice=holdings[0].numerics.choice,
    )
    next(states)  # before the first
    for state in states:
        yield state.weights
