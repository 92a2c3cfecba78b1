"""What a patient of a one-shot study adds: features times what is known, of a length with a bound.

The adversary chooses the weights of the head; nothing of the sum follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from client.data.cohort import Patient
from client.training.local import local_change, require_probed
from client.training.sampling import RoundStreams
from common.models.networks import build_model, initial_weights, join, load_flat, split
from common.models.parts import Projected
from common.numerics import EngineChoice
from common.privacy.mechanisms import NoMechanism, PatientMechanism, mechanism
from common.study.one_shot import CLIP_NORM
from common.study.study_file import Study
from tests.common.studies import document

WIDTH, IMAGES = 5, 12
CHOICE = EngineChoice(tile=4)


def one_shot(**sections: dict[str, Any]) -> Study:
    """The small study, trained by one release."""
    whole = document(**sections)
    whole["training"] = {"method": "one-shot", "images_per_patient": 2}
    whole["model"] |= {"projection": WIDTH}
    whole.pop("aggregation")
    return Study.model_validate(whole)


def pictures(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((IMAGES, 1, 8, 8)).astype(np.float16)


def patients(labels: Sequence[float]) -> tuple[Patient, ...]:
    per = IMAGES // len(labels)
    return tuple(
        Patient(f"{number:064x}", label, tuple(range(number * per, (number + 1) * per)), "")
        for number, label in enumerate(labels)
    )


def change(
    study: Study, labels: Sequence[float], *, head: float = 0.0, images: np.ndarray | None = None
) -> np.ndarray:
    """What a site sends of so many patients, for weights of the head that somebody chose."""
    exact = mechanism(study, len(labels), len(labels))
    trained, frozen = split(study, initial_weights(study, 3))
    return local_change(
        require_probed(study, exact, CHOICE),
        join(study, np.full_like(trained, head), frozen),
        pictures() if images is None else images,
        patients(labels),
        round_number=1,
        streams=RoundStreams(b"\1" * 32),
    )


def shown(study: Study) -> np.ndarray:
    """The projected features of every image, (images, width)."""
    model = build_model(study)
    load_flat(model, initial_weights(study, 3))
    found: list[torch.Tensor] = []
    (projected,) = (each for each in model.modules() if isinstance(each, Projected))
    projected.head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    pixels = torch.from_numpy(pictures()).float()
    with torch.no_grad():
        model((pixels - study.data.mean) / study.data.std)
    return found[0].double().numpy()


NONE: dict[str, Any] = {"privacy": {"mode": "none"}}


def test_without_noise_it_is_the_sum_of_features_and_ones_for_each_class() -> None:
    study = one_shot(**NONE, evaluation={"rounds": "none"})
    study = study.model_copy(
        update={"training": study.training.model_copy(update={"images_per_patient": 1})}
    )
    labels = [0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1]
    found = change(study, labels).astype(np.float64) * len(labels)
    assert isinstance(mechanism(study, 12, 12), NoMechanism)
    features = shown(study)
    for label in (0, 1):
        mine = features[np.array(labels) == label]
        assert np.allclose(found[: 2 * WIDTH].reshape(2, WIDTH)[label], mine.sum(axis=0), atol=1e-4)
        assert found[2 * WIDTH + label] == pytest.approx(len(mine), abs=1e-4)


def test_of_a_number_it_is_the_sum_of_features_times_the_number() -> None:
    number = {"kind": "regression", "classes": None, "lowest": 10.0, "highest": 20.0}
    study = one_shot(**NONE, task=number)
    study = study.model_copy(
        update={"training": study.training.model_copy(update={"images_per_patient": 1})}
    )
    numbers = [10.0, 20.0, 15.0, 12.5, 99.0, float("nan"), 15, 15, 15, 15, 15, 15]
    found = change(study, numbers).astype(np.float64) * len(numbers)
    known = np.array([-1.0, 1.0, 0.0, -0.5, 1.0, 0.0, *[0.0] * 6])
    assert np.allclose(found[:WIDTH], known @ shown(study), atol=1e-4)
    assert found[-1] == pytest.approx(known.sum(), abs=1e-4)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_no_weight_of_the_head_that_a_coordinator_chooses_moves_the_sum(kind: str) -> None:
    task = {"kind": kind} | ({"classes": None} if kind == "regression" else {})
    study, labels = one_shot(task=task), [0, 1, 1, 0]
    first = change(study, labels)
    for head in (1.0, -10.0):  # up to the rounding of what is added to them and taken off again
        assert np.allclose(change(study, labels, head=head), first, rtol=0, atol=3e-6)


def test_a_patient_moves_the_sum_by_the_clip_norm_at_most_and_by_that_much_where_images_agree() -> (
    None
):
    study, one = one_shot(), pictures()[:1].repeat(IMAGES, axis=0)
    exact = mechanism(study, 4, 4)
    assert isinstance(exact, PatientMechanism)
    assert exact.clip_norm == CLIP_NORM
    assert exact.step.sampling_rate == 1.0
    quiet = exact.step.model_copy(update={"noise_multiplier": 1e-9})
    still = exact.model_copy(update={"step": quiet})
    probed = require_probed(study, still, CHOICE)
    weights = initial_weights(study, 3)
    streams = RoundStreams(b"\1" * 32)
    sums = [
        local_change(probed, weights, one, some, round_number=1, streams=streams) * still.divisor
        for some in (patients([0, 1, 1, 0]), patients([0, 1, 1, 0])[:3])
    ]
    moved = float(np.linalg.norm((sums[0] - sums[1]).astype(np.float64)))
    assert moved == pytest.approx(CLIP_NORM, rel=1e-3)


def test_one_release_is_all_that_a_patient_pays_for() -> None:
    study = one_shot(privacy={"epsilon": 1.0})
    exact = mechanism(study, 1000, 2000)
    assert isinstance(exact, PatientMechanism)
    assert exact.epsilon_training <= 1.0
    # The Gaussian mechanism alone: 3.7 at epsilon 1 and delta 1e-5 (Balle and Wang 2018).
    assert exact.step.noise_multiplier == pytest.approx(3.73, abs=0.05)
    assert exact.most_sampled == 2000
