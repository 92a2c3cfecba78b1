"""The rounds of a study with one site, without a network: what a baseline trains.

Every step is the study's own function: the site's local training, the fixed point, the
coordinator's optimiser and average. Only the asking is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from client.data.cohort import Patient
from client.training.local import local_change, require_probed
from client.training.sampling import RoundStreams
from common.checkpoint import Checkpoint, study_hash
from common.models.networks import initial_weights
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import derive, known_secret
from common.study.study_file import Study
from server.study.aggregation import begin
from server.study.rounds import advance


def single_site_rounds(
    study: Study,
    planned: PatientMechanism | NoMechanism,
    images: npt.NDArray[np.float16],
    patients: tuple[Patient, ...],
    *,
    name: str,
    seed: int,
    choice: EngineChoice,
    masks: npt.NDArray[np.uint8] | None = None,
) -> Iterator[Checkpoint]:
    """The state before the first round, and after each.

    Args:
        study: what is learned, and how.
        planned: the privacy mechanism.
        images: (images, channels, height, width).
        patients: to train on, with their rows in ``images``; sensitive.
        name: that randomness follows from, besides the seed.
        seed: of the run.
        choice: how the model's steps are computed.
        masks: (images, height, width), where they are the targets.
    """
    state = Checkpoint(study_hash(study), seed, {}, 0, initial_weights(study, seed))
    probed = require_probed(study, planned, choice)
    # The name is part of it: no two baselines of a run share their samples or their noise.
    secret = known_secret(seed, name, "baseline")
    yield state
    for number in range(1, study.training.rounds + 1):
        change = local_change(
            probed,
            state.weights,
            images,
            patients,
            round_number=number,
            streams=RoundStreams(derive(secret, round=number)),
            masks=masks,
        )
        fold = begin(study.aggregation, change.size, {name: 1})
        fold.add(name, study.fixed_point.encode(change))
        state = advance(study, state, fold)
        yield state
