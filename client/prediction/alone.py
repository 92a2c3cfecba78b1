"""A model that the hospital trains on its own patients alone, to compare the shared one with.

It has the study's own network and schedule, and no noise: what never leaves needs none. It
is not kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.prediction.own import OwnPatients
from client.prediction.scoring import TILE
from client.training.local import local_change, require_probed
from client.training.sampling import RoundStreams
from common.models.networks import initial_weights, join, split
from common.numerics import EngineChoice
from common.privacy.mechanisms import mechanism
from common.privacy.randomness import derive
from common.process.progress import Progress
from common.study.study_file import NoPrivacy, Study

_SEED: Final = 0
"""Of first weights and samples: the same patients give the same model."""


def train_alone(
    study: Study, shared: NDArray[np.float32], own: OwnPatients, progress: Progress
) -> NDArray[np.float32]:
    """The flat float32 weights after the study's schedule on the hospital's training patients.

    Args:
        study: as in the package.
        shared: the package's weights: those that the study did not train are these, too.
        own: the patients.
        progress: shown while it lasts.
    """
    opened = study.model_copy(update={"privacy": NoPrivacy(mode="none")})
    patients = own.train
    planned = mechanism(opened, len(patients), len(patients))
    probed = require_probed(opened, planned, EngineChoice(tile=TILE))
    trained, _ = split(opened, initial_weights(opened, _SEED))
    _, frozen = split(opened, shared)
    rounds = opened.training.rounds
    secret = derive(b"alone", seed=_SEED)
    with progress("training alone (Ctrl+C leaves it out)", rounds, unit="rounds") as job:
        for number in range(1, rounds + 1):
            trained = trained + local_change(
                probed,
                join(opened, trained, frozen),
                own.cohort.images,
                patients,
                round_number=number,
                streams=RoundStreams(derive(secret, round=number)),
                masks=own.cohort.masks,
            )
            job.advance()
    return join(opened, trained, frozen)
