from __future__ import annotations

import numpy as np
import pytest
import torch

from client.sampling import Batch
from common.model import build_model, initial_weights, load_flat
from simulations.audit.listener import Labelled, Listener, clipped_gradients, evidence, whitened
from simulations.audit.parts import clipped_sum, ready
from tests.simulations.audit.conftest import audited


@pytest.mark.parametrize("clip_norm", [1e-3, 100.0])
def test_a_canarys_gradient_is_the_one_that_the_site_clips(clip_norm: float) -> None:
    study, planned = audited(
        privacy={"clip_norm": clip_norm}, training={"class_weights": [1.9, 0.7]}
    )
    weights = initial_weights(study, 1)
    pictures = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
    data = Labelled.of(study, pictures, [0, 1, 1])

    found = clipped_gradients(study, weights, data, clip_norm, kept=weights.size)

    model = build_model(study)
    load_flat(model, weights)
    taken = ready(model)
    for place in range(3):
        alone = Batch(data.pixels[place : place + 1, None], data.labels[place : place + 1])
        wanted = clipped_sum(taken, alone, planned, study) / clip_norm
        assert torch.allclose(found[place], wanted, atol=1e-5)


def test_of_a_large_model_the_last_weights_are_kept() -> None:
    study, _ = audited()
    weights = initial_weights(study, 1)
    data = Labelled.of(study, np.zeros((2, 1, 8, 8), dtype=np.float32), [0, 1])

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
    """Rate 1, noise 2, no spread to speak of: (x - 1/2) / 4 for a coin of 1/2."""
    canaries, reference = torch.eye(2), torch.zeros(1, 2)
    seen = torch.tensor([1.7, -0.2])

    found = evidence(seen, canaries, reference, others=10, rate=1.0, noise=2.0, steps=1)

    spread = 1 / (4.0 + 0.25)
    assert found == pytest.approx([(1.7 - 0.5) * spread, (-0.2 - 0.5) * spread], rel=1e-5)


def test_a_listener_tells_who_is_in_where_noise_is_low() -> None:
    """One step in which every member takes part, with hardly any noise."""
    study, planned = audited(training={"rounds": 1, "local_steps": 1, "batch_size": 100})
    step = planned.step.model_copy(update={"noise_multiplier": 0.01})
    planned = planned.model_copy(update={"step": step})
    generator = np.random.default_rng(0)
    pictures = generator.random((6, 1, 8, 8)).astype(np.float32)
    data = Labelled.of(study, pictures, [0, 1, 0, 1, 0, 1])
    reference = Labelled.of(study, pictures[:1] * 0, [0])
    weights = initial_weights(study, 0)
    members = np.array([True, False, False, True, True, False])
    listener = Listener(study, {"east": planned}, {"east": 1}, {"east": data}, reference)
    gradients = clipped_gradients(study, weights, data, planned.clip_norm, weights.size)
    total = gradients[torch.from_numpy(members)].sum(dim=0).double().numpy()
    change = -total * planned.clip_norm / planned.divisor * study.training.learning_rate

    listener.hear("east", 1, weights, change)

    assert listener.heard == 1
    assert listener.scores["east"][members].min() > listener.scores["east"][~members].max()
