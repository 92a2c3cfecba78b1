from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.privacy.randomness import known_secret
from common.process.progress import Tracker
from simulations.audit.findings import MechanismFinding
from simulations.audit.mechanism import Claim, audit_mechanism, statistics
from simulations.audit.parts import PRODUCTION, Parts
from tests.planted_faults import halved_noise
from tests.simulations.audit.conftest import audited

SEEDS = 4
HALF = replace(PRODUCTION, noised=halved_noise)


def found(epsilon: float, parts: Parts, job: Tracker) -> list[MechanismFinding]:
    """Small audits of one claim; the benchmark has more and larger ones."""
    study, planned = audited(privacy={"epsilon": epsilon})
    return [
        audit_mechanism(
            study,
            planned,
            site="site",
            key=known_secret(seed, "power", "audit"),
            failure=0.05,
            job=job,
            repetitions=12,
            side=32,
            parts=parts,
        )
        for seed in range(SEEDS)
    ]


@pytest.mark.long  # one seed of each, sound and halved: test_planted_faults.py
@pytest.mark.parametrize("epsilon", [3.0, 8.0])
def test_the_sound_mechanism_is_bounded_from_half_its_claim_and_called_broken_at_most_once(
    epsilon: float, job: Tracker
) -> None:
    audits = found(epsilon, PRODUCTION, job)

    assert min(one.empirical / one.claimed for one in audits) >= 0.5
    assert sum(not one.survived for one in audits) <= 1


@pytest.mark.long  # one seed of each, sound and halved: test_planted_faults.py
@pytest.mark.parametrize("epsilon", [3.0, 8.0])
def test_halved_noise_is_called_broken_in_all_seeds_but_one(epsilon: float, job: Tracker) -> None:
    audits = found(epsilon, HALF, job)

    assert sum(not one.survived for one in audits) >= SEEDS - 1


def test_a_claim_is_the_plans_own_and_its_ladder_goes_from_four_times_the_noise_to_a_quarter() -> (
    None
):
    study, planned = audited()
    claim = Claim.of(study, planned)

    assert (claim.steps, claim.rate, claim.delta) == (16, 0.25, 1e-5)
    assert claim.epsilon == planned.epsilon_training
    assert claim.noise_at(0) == pytest.approx(4 * claim.noise_multiplier)
    assert claim.noise_at(32) == claim.noise_multiplier
    assert claim.noise_at(64) == pytest.approx(claim.noise_multiplier / 4)


def test_the_likelihood_statistic_is_the_logarithm_of_the_likelihood_ratio() -> None:
    """One step at rate 0.25 and noise 2 that shows 1.5: log(0.75 + 0.25 exp((1.5 - 0.5) / 4))."""
    claim = Claim(rate=0.25, noise_multiplier=2.0, steps=1, delta=1e-5, epsilon=1.0)

    scores = statistics(np.array([[1.5]], dtype=np.float32), claim)

    assert scores["by likelihood ratio"][0] == pytest.approx(np.log(0.75 + 0.25 * np.exp(0.25)))


def test_where_everyone_takes_part_it_is_that_of_two_normals() -> None:
    claim = Claim(rate=1.0, noise_multiplier=2.0, steps=2, delta=1e-5, epsilon=1.0)

    scores = statistics(np.array([[1.5], [0.5]], dtype=np.float32), claim)

    assert scores["by likelihood ratio"][0] == pytest.approx((1.5 - 0.5) / 4 + 0.0)
    assert scores["by spread over the steps"][0] == pytest.approx(0.5)
