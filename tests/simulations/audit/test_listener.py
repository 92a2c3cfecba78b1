from __future__ import annotations

import numpy as np
import pytest
import torch

from client.training.sampling import Batch
from common.errors import Refusal
from common.models.networks import build_model, initial_weights, load_flat
from common.wire.flower import ConfigRecord, Message, RecordDict, context, identify
from simulations.audit.listener import (
    LabelledImages,
    Listener,
    clipped_gradients,
    evidence,
    summed,
    whitened,
)
from simulations.audit.parts import clipped_sum
from tests.simulations.audit.conftest import audited


@pytest.mark.parametrize("clip_norm", [1e-3, 100.0])
def test_a_canarys_gradient_is_the_one_that_the_site_clips(clip_norm: float) -> None:
    study, planned = audited(privacy={"clip_norm": clip_norm}, task={"class_weights": [1.9, 0.7]})
    weights = initial_weights(study, 1)
    pictures = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
    data = LabelledImages(pictures, (0, 1, 1))
    batch = next(data.batches(study, 3))

    found = clipped_gradients(study, weights, data, clip_norm, kept=weights.size)

    model = build_model(study)
    load_flat(model, weights)
    taken = model
    for place in range(3):
        alone = Batch(batch.pixels[place : place + 1], batch.targets[place : place + 1])
        wanted = (clipped_sum(taken, alone, planned, study) / clip_norm).float()
        assert torch.allclose(found[place], wanted, atol=1e-5)


def test_of_a_large_model_the_last_weights_are_kept() -> None:
    study, _ = audited()
    weights = initial_weights(study, 1)
    data = LabelledImages(np.zeros((2, 1, 8, 8), dtype=np.float32), (0, 1))

    whole = clipped_gradients(study, weights, data, 1.0, kept=weights.size)

    assert torch.equal(clipped_gradients(study, weights, data, 1.0, kept=7), whole[:, -7:])


def test_whitening_multiplies_by_the_inverse_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(3, 5, generator=generator)
    values = torch.randn(2, 5, generator=generator)
    covariance = (4.0 * torch.eye(5) + spread.T @ spread) / 6

    wanted = torch.linalg.solve(covariance, values.T).T

    assert torch.allclose(whitened(values, spread, noise=2.0, steps=6), wanted, atol=1e-4)


def test_on_unit_vectors_without_others_evidence_is_the_gaussian_log_likelihood_ratio() -> None:
    """Rate 1, noise 2; two coins of 1/2, each adding 1/4 to the variance of 4 in its direction."""
    canaries, known, total = torch.eye(2), torch.zeros(1, 2), torch.zeros(2)
    seen = torch.tensor([1.7, -0.2])

    found = evidence(seen, canaries, known, total, others=10, rate=1.0, noise=2.0, steps=1)

    assert found == pytest.approx([(1.7 - 0.5) / 4.25, (-0.2 - 0.5) / 4.25], rel=1e-5)


def test_what_the_others_add_on_average_is_taken_away() -> None:
    canaries, known, total = torch.eye(2), torch.zeros(1, 2), torch.tensor([30.0, -8.0])
    seen = torch.tensor([1.7, -0.2])

    alone = evidence(seen, canaries, known, 0 * total, others=10, rate=0.5, noise=2.0, steps=1)
    among = evidence(
        seen + 0.5 * total, canaries, known, total, others=10, rate=0.5, noise=2.0, steps=1
    )

    assert among == pytest.approx(alone, abs=1e-5)


def test_the_sum_over_many_batches_is_that_of_each_patients_clipped_gradient() -> None:
    study, planned = audited()
    pictures = np.random.default_rng(1).random((700, 1, 8, 8)).astype(np.float16)
    data = LabelledImages(pictures, tuple(number % 2 for number in range(700)))
    weights = initial_weights(study, 0)

    each = clipped_gradients(study, weights, data, planned.clip_norm, weights.size)

    found = summed(study, weights, data, planned)
    assert torch.allclose(found, each.sum(dim=0), atol=2e-3)


def test_a_listener_tells_who_is_in_where_noise_is_low() -> None:
    """One step in which every member takes part, with hardly any noise."""
    study, planned = audited(training={"rounds": 1, "local_steps": 1, "batch_size": 100})
    step = planned.step.model_copy(update={"noise_multiplier": 0.01})
    planned = planned.model_copy(update={"step": step})
    pictures = np.random.default_rng(0).random((9, 1, 8, 8)).astype(np.float32)
    canaries = LabelledImages(pictures[:6], (0, 1, 0, 1, 0, 1))
    others = LabelledImages(pictures[6:], (0, 0, 1))
    weights = initial_weights(study, 0)
    members = np.array([True, False, False, True, True, False])
    gradients = clipped_gradients(study, weights, canaries, planned.clip_norm, weights.size)
    total = summed(study, weights, others, planned) + gradients[torch.from_numpy(members)].sum(
        dim=0
    )
    length = planned.clip_norm / planned.divisor * study.training.learning_rate
    listener = Listener(study, {"east": planned}, {"east": canaries}, {"east": others})

    listener.hear("east", 1, weights, -total.double().numpy() * length)

    assert listener.heard == 1
    assert listener.scores["east"][members].min() > listener.scores["east"][~members].max()


def test_a_listener_that_fails_keeps_why_and_lets_the_reply_pass() -> None:
    study, planned = audited()
    listener = Listener(study, {"east": planned}, {}, {})
    identify(1)
    strange = Message(RecordDict({"unexpected": ConfigRecord({})}), 1, "train")

    answered = listener.tap(lambda message, _: message)(strange, context(1, 1, node={}, run={}))

    assert answered is strange
    assert isinstance(listener.failure, Refusal)
