from __future__ import annotations

import numpy as np
import pytest
import torch

from common.privacy.mechanisms import PatientMechanism
from simulations.audit.parts import PRODUCTION, clipped_sum
from simulations.audit.tiny import LENGTH, canaries, linear, releases
from tests.simulations.audit.conftest import audited

KEY = bytes(range(32))


def almost_noiseless(planned: PatientMechanism) -> PatientMechanism:
    step = planned.step.model_copy(update={"noise_multiplier": 1e-6})
    return planned.model_copy(update={"step": step})


@pytest.mark.parametrize("clip_norm", [0.5, 4.0])
@pytest.mark.parametrize("class_weights", [None, [1.94, 0.67]])
def test_without_noise_a_member_is_read_as_one_when_drawn_and_others_as_zero(
    clip_norm: float, class_weights: list[float] | None
) -> None:
    study, planned = audited(
        privacy={"clip_norm": clip_norm},
        task={"class_weights": class_weights},
        training={"rounds": 8, "local_steps": 2, "batch_size": 25},
    )
    made = canaries(study, planned, 6)
    members = np.arange(36) % 3 == 0

    seen = releases(made, almost_noiseless(planned), members, key=KEY, parts=PRODUCTION)

    assert seen.shape == (16, 36)
    assert np.allclose(seen, np.rint(seen), atol=1e-4)
    assert set(np.rint(seen[:, members]).reshape(-1)) == {0.0, 1.0}
    assert np.abs(seen[:, ~members]).max() < 1e-4
    assert 0.1 < seen[:, members].mean() < 0.4


def test_a_canary_pushes_sixteen_times_as_hard_as_it_may() -> None:
    study, planned = audited()
    made = canaries(study, planned, 4)
    wide = planned.model_copy(update={"clip_norm": 1e6})
    streams_batch = PRODUCTION.draw(
        made.study,
        planned.model_copy(update={"step": planned.step.model_copy(update={"sampling_rate": 1.0})}),
        made.images,
        made.patients[:1],
        streams=_streams(),
        step=0,
    )

    total = clipped_sum(linear(made.study), streams_batch, wide, made.study)

    assert float(total.norm()) == pytest.approx(LENGTH * planned.clip_norm, rel=1e-3)


def test_the_same_key_releases_the_same_and_another_key_something_else() -> None:
    study, planned = audited()
    made, members = canaries(study, planned, 4), np.ones(16, dtype=bool)

    def run(key: bytes) -> np.ndarray:
        return releases(made, planned, members, key=key, parts=PRODUCTION)

    assert np.array_equal(run(KEY), run(KEY))
    assert not np.allclose(run(KEY), run(bytes(32)))


def test_no_two_canaries_share_a_direction() -> None:
    study, planned = audited()
    made = canaries(study, planned, 4)

    assert made.images.reshape(16, 16).tolist() == np.eye(16).tolist()
    assert torch.allclose(made.directions.norm(dim=1), torch.ones(16))


def _streams() -> object:
    from client.training.sampling import RoundStreams

    return RoundStreams(KEY)
