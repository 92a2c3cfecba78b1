"""Every planted fault sets off the detectors that the guide's table names, and no sound one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.training.noise import noised
from client.training.sampling import RoundStreams
from common.privacy.randomness import Stream
from common.process.progress import Tracker
from simulations.audit.mechanism import audit_mechanism
from simulations.audit.parts import PRODUCTION
from simulations.audit.premises import NOISE, PART, SAMPLES, check_all
from simulations.audit.tiny import canaries
from tests.planted_faults import (
    FAULTS,
    Fault,
    fixed_size,
    halved_noise,
)
from tests.simulations.audit.conftest import DECLARED, audited

MECHANISM = "mechanism audit"
CAUGHT = {
    "halved noise": {MECHANISM, NOISE},
    "clipping left out": {MECHANISM, PART},
    "per-image instead of per-patient clipping": {MECHANISM, PART},
    "fixed-size batch accounted as Poisson": {SAMPLES},
    "noise reused between steps": {MECHANISM, NOISE},
    "batch-mean loss instead of sum": {PART},
}
SOUND = (Fault("none", PRODUCTION), Fault("none", PRODUCTION, images_per_patient=4))
KEY = bytes(range(32))


def caught_by(fault: Fault, job: Tracker) -> set[str]:
    study, planned = audited()
    study = fault.afflicted(study)
    audit = audit_mechanism(
        study,
        planned,
        site="site",
        key=KEY,
        failure=0.05,
        job=job,
        repetitions=6,
        side=24,
        parts=fault.parts,
    )
    checks = check_all(study, planned, site="site", key=KEY, parts=fault.parts)
    broken = set() if audit.survived else {MECHANISM}
    return broken | {check.name for check in checks if not check.passed}


def test_every_planted_fault_has_a_line_in_the_table() -> None:
    assert [fault.name for fault in FAULTS] == list(CAUGHT)


@pytest.mark.matrix(fault=lambda fault: frozenset(CAUGHT[fault.name]))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault, job: Tracker) -> None:
    assert caught_by(fault, job) == CAUGHT[fault.name]


@pytest.mark.matrix(fault=type)
@pytest.mark.parametrize("fault", SOUND, ids=["one image", "four images"])
def test_nothing_is_caught_where_nothing_is_planted(fault: Fault, job: Tracker) -> None:
    assert caught_by(fault, job) == set()


def test_a_batch_of_fixed_size_has_the_size_that_poisson_sampling_has_on_average() -> None:
    study, planned = audited()
    made = canaries(study, planned, 10)

    sizes = {
        len(
            fixed_size(
                made.study, planned, made.images, made.patients, streams=RoundStreams(KEY), step=k
            ).targets
        )
        for k in range(20)
    }

    assert sizes == {round(0.25 * DECLARED)}


def test_half_the_noise_is_half_of_the_same_noise() -> None:
    _, planned = audited()
    nothing = torch.zeros(100)

    whole = noised(nothing, planned, Stream(KEY)).numpy()
    half = halved_noise(nothing, planned, Stream(KEY)).numpy()

    assert np.allclose(half, whole / 2)
