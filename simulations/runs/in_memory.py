"""The rounds of a study without a network: what a baseline trains, and what advice tries.

Every step is the study's own function: the site's local training, the fixed point, the
coordinator's optimiser and average. Only the asking is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from client.data.cohort import Patient
from client.training.features import Stem, in_rounds
from client.training.local import local_change, require_probed
from client.training.sampling import RoundStreams
from common.checkpoint import Checkpoint, study_hash
from common.models.networks import split
from common.models.spec import Shape
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.privacy.randomness import derive, known_secret
from common.study.study_file import Study
from common.wire.flower import identify
from server.study.aggregation import begin
from server.study.rounds import advance
from simulations.grids.nodes import RUN_ID


@dataclass(frozen=True)
class Trained:
    """Who trains at one site, and how.

    Attributes:
        planned: the privacy mechanism.
        images: (images, channels, height, width).
        patients: with their rows in ``images``; sensitive.
        masks: (images, height, width), where they are the targets.
        weight: of the site in the average.
    """

    planned: PatientMechanism | NoMechanism
    images: npt.NDArray[np.float16]
    patients: tuple[Patient, ...]
    masks: npt.NDArray[np.uint8] | None = None
    weight: int = 1


def rounds_in_memory(
    study: Study,
    sites: Mapping[str, Trained],
    weights: npt.NDArray[np.float32],
    *,
    seed: int,
    choice: EngineChoice,
) -> Iterator[Checkpoint]:
    """The state before the first round, and after each.

    Args:
        study: what is learned, and how.
        sites: by the names that randomness follows from, besides the seed.
        weights: all flat float32 weights of round zero.
        seed: of the run.
        choice: how the model's steps are computed.
    """
    identify(RUN_ID)  # Flower's classes ask which run they belong to
    trained, frozen = split(study, weights)
    state = Checkpoint(study_hash(study), seed, {}, 0, trained, frozen=frozen)
    computed, mechanisms = in_rounds(study), {name: each.planned for name, each in sites.items()}
    probed = {name: require_probed(computed, each, choice) for name, each in mechanisms.items()}
    if computed is not study:
        stem = Stem(study, frozen, choice)
        sites = {name: _featured(each, stem, computed.shape) for name, each in sites.items()}
    # The name is part of it: no two baselines of a run share their samples or their noise.
    secrets = {name: known_secret(seed, name, "baseline") for name in sites}
    weighed = {name: each.weight for name, each in sites.items()}
    yield state
    for number in range(1, study.training.rounds + 1):
        fold = begin(study.aggregation, state.weights.size, weighed)
        for name, each in sites.items():
            change = local_change(
                probed[name],
                probed[name].weights(state.weights, state.frozen),
                each.images,
                each.patients,
                round_number=number,
                streams=RoundStreams(derive(secrets[name], round=number)),
                masks=each.masks,
            )
            fold.add(name, study.fixed_point.encode(change))
        state = advance(study, state, fold, mechanisms)
        yield state


def _featured(site: Trained, stem: Stem, shape: Shape) -> Trained:
    """The same, with features of a frozen network in place of images."""
    none = np.zeros((0, *shape), dtype=np.float32)
    features = [stem.of(site.images, each.images) for each in site.patients]
    patients, start = [], 0
    for each, own in zip(site.patients, features, strict=True):
        patients.append(replace(each, images=tuple(range(start, start + len(own)))))
        start += len(own)
    return replace(site, images=np.concatenate([none, *features]), patients=tuple(patients))
