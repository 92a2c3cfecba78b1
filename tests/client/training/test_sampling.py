"""What chance decides in a step: anew for each step, each patient and each use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from client.data.cohort import Patient
from client.training.sampling import PatientStreams, RoundStreams, draw
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.study.study_file import Study
from tests.common.studies import small_study

STREAMS = RoundStreams(bytes(range(32)))
STEPS, PATIENTS = 40, 64


def mechanism(rate: float) -> PatientMechanism:
    return PatientMechanism(
        step=SampledGaussian(sampling_rate=rate, noise_multiplier=1.0, count=1),
        evaluation=None,
        most_sampled=10**6,
        clip_norm=1.0,
        divisor=1.0,
        cell_noise=0.0,
        epsilon_training=1.0,
        epsilon_evaluation=0.0,
        delta=1e-5,
    )


@pytest.fixture(scope="module")
def images() -> npt.NDArray[Any]:
    """Two of each patient; a pixel says which it is, from zero to one."""
    numbers = np.arange(2 * PATIENTS) / (2 * PATIENTS)
    whole = np.broadcast_to(numbers[:, None, None, None], (2 * PATIENTS, 1, 8, 8))
    return whole.astype(np.float32)


def cohort(count: int = PATIENTS, images_each: int = 2) -> tuple[Patient, ...]:
    return tuple(
        Patient(f"P{place}", place % 2, tuple(range(2 * place, 2 * place + images_each)), "0" * 64)
        for place in range(count)
    )


def drawn(
    study: Study, rate: float, images: npt.NDArray[np.float32], step: int
) -> list[tuple[int, ...]]:
    """Rows of the images that each drawn patient of a step has."""
    batches = draw(study, mechanism(rate), images, cohort(), streams=STREAMS, step=step, tile=8)
    mean, std = study.data.mean, study.data.std
    return [
        tuple(round((float(one) * std + mean) * len(images)) for one in pixels[:, 0, 0, 0])
        for batch in batches
        for pixels in batch.pixels
    ]


def test_each_step_draws_other_patients(images: npt.NDArray[np.float32]) -> None:
    """Half of 64 patients in each of 40 steps: no two steps take the same ones."""
    study = small_study()
    steps = [
        frozenset(first // 2 for first, *_ in drawn(study, 0.5, images, step))
        for step in range(STEPS)
    ]
    assert len(set(steps)) == STEPS
    assert 28 < np.mean([len(step) for step in steps]) < 36
    often = np.array([sum(place in step for step in steps) for place in range(PATIENTS)])
    assert often.min() > 5
    assert often.max() < 35


def test_each_step_draws_other_images_of_a_patient_who_is_in_all(
    images: npt.NDArray[np.float32],
) -> None:
    steps = [tuple(drawn(small_study(), 1.0, images, step)) for step in range(STEPS)]
    assert {len(step) for step in steps} == {PATIENTS}
    assert len(set(steps)) == STEPS
    for place in range(PATIENTS):
        assert len({step[place] for step in steps}) == 2, "both images come up"


def test_each_step_changes_images_in_other_ways(images: npt.NDArray[np.float32]) -> None:
    """One image a patient, which a step lightens or darkens at random."""
    study = small_study(training={"augmentation": {"intensity": 0.5}})
    alone = (Patient("P", 0, (PATIENTS,), "0" * 64),)
    seen = {
        batch.pixels.numpy().tobytes()
        for step in range(STEPS)
        for batch in draw(study, mechanism(1.0), images, alone, streams=STREAMS, step=step, tile=1)
    }
    assert len(seen) == STEPS


def test_coins_are_other_coins_in_every_step_for_every_patient_and_in_every_round() -> None:
    rounds = [RoundStreams(bytes([number]) * 32) for number in range(3)]
    coins = np.array(
        [
            [each.of_patients(step).coin(f"P{place}") for place in range(PATIENTS)]
            for each in rounds
            for step in range(STEPS)
        ]
    )
    assert len(np.unique(coins)) == coins.size
    assert coins.min() >= 0.0
    assert coins.max() < 1.0
    # Neither steps (or rounds) nor patients go with one another: 1 / sqrt(64) and 1 / sqrt(120).
    for rows in (coins, coins.T):
        correlations = np.corrcoef(rows) - np.eye(len(rows))
        assert np.abs(correlations).max() < 6 / np.sqrt(rows.shape[1])
        assert np.abs(correlations.mean()) < 0.02


def test_a_coin_says_nothing_of_what_is_drawn_and_a_purpose_nothing_of_another() -> None:
    """Each pair of purpose and step has a key of its own; so has each use for a patient."""
    words = [STREAMS.stream(purpose, step).bytes(32) for purpose in "ab" for step in range(3)]
    words += [STREAMS.of_patients(step).secret for step in range(3)]
    patients = PatientStreams(bytes(32))
    words += [patients.stream(name).bytes(32) for name in ("P1", "P11", "1P1")]
    assert len(set(words)) == len(words)
    coin = int(patients.coin("P1") * 2**53)
    assert coin != int.from_bytes(patients.stream("P1").bytes(8), "little") >> 11


def test_a_coin_is_below_every_rate_as_often_as_the_rate_says() -> None:
    """53 bits, none of them lost: the least and the largest of 20,000 lie where they should."""
    patients = PatientStreams(bytes(32))
    coins = np.array([patients.coin(str(number)) for number in range(20_000)])
    for rate in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99):
        slack = 5 * np.sqrt(rate * (1 - rate) / coins.size)
        assert abs((coins < rate).mean() - rate) < slack
    assert (coins * 2.0**53 == np.floor(coins * 2.0**53)).all()
    assert (coins * 2.0**53 % 2).any()


def test_without_privacy_patients_are_sampled_alike(images: npt.NDArray[np.float32]) -> None:
    free = NoMechanism(sampling_rate=0.5, divisor=1.0)
    counts = []
    for each in (free, mechanism(0.5)):
        batches = draw(
            small_study(), each, images, cohort(), streams=STREAMS, step=3, tile=PATIENTS
        )
        counts.append([batch.targets.tolist() for batch in batches])
    assert counts[0] == counts[1]


def test_a_patient_takes_part_where_the_coin_is_below_the_rate_and_not_at_it(
    images: npt.NDArray[np.float32],
) -> None:
    own = STREAMS.of_patients(0)
    (someone,) = cohort(1)
    coin = own.coin(someone.pseudonym)

    def taken(rate: float) -> int:
        each = mechanism(rate)
        batches = draw(small_study(), each, images, (someone,), streams=STREAMS, step=0, tile=1)
        return len(list(batches))

    assert 0.0 < coin < 1.0
    assert [taken(rate) for rate in (np.nextafter(coin, 0), coin, np.nextafter(coin, 1))] == [
        0,
        0,
        1,
    ]
