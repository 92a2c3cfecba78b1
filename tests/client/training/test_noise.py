"""The noise actually added: of the right size and shape, independent, never repeated.

Keys are fixed, so that a test of a distribution passes for ever or never.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from client.training.noise import noised
from client.training.sampling import RoundStreams
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import GAMMA, NoMechanism, PatientMechanism
from common.privacy.randomness import PAIRS, derive

MULTIPLIER, CLIP = 1.7, 0.3
DEVIATION = MULTIPLIER * CLIP * (1 + GAMMA)
MECHANISM = PatientMechanism(
    step=SampledGaussian(sampling_rate=0.5, noise_multiplier=MULTIPLIER, count=1),
    evaluation=None,
    most_sampled=10**9,
    clip_norm=CLIP,
    divisor=8.0,
    cell_noise=0.0,
    epsilon_training=3.0,
    epsilon_evaluation=0.0,
    delta=1e-5,
)
COUNT = 1_000_001


def added(seed: int = 0, step: int = 0, count: int = COUNT) -> npt.NDArray[np.float64]:
    """The noise on a sum of zeros, in standard deviations."""
    streams = RoundStreams(derive(b"a test", seed=seed))
    zeros = torch.zeros(count)
    return noised(zeros, MECHANISM, streams.stream("noise", step)).double().numpy() / DEVIATION


@pytest.fixture(scope="module")
def noise() -> npt.NDArray[np.float64]:
    return added()


def test_its_moments_are_the_normal_distributions(noise: npt.NDArray[np.float64]) -> None:
    """Each within four standard errors."""
    assert abs(noise.mean()) < 4 / math.sqrt(COUNT)
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / COUNT)
    assert abs(stats.skew(noise)) < 4 * math.sqrt(6 / COUNT)
    assert abs(stats.kurtosis(noise)) < 4 * math.sqrt(24 / COUNT)


def test_its_distribution_is_normal_with_nothing_estimated(noise: npt.NDArray[np.float64]) -> None:
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert stats.cramervonmises(noise, "norm").pvalue > 0.01
    squared = np.sort(stats.norm.cdf(noise))
    ranks = np.arange(1, COUNT + 1)
    anderson_darling = -COUNT - np.mean(
        (2 * ranks - 1) * (np.log(squared) + np.log1p(-squared[::-1]))
    )
    assert anderson_darling < 3.857  # the 1 % point where nothing is estimated (Stephens 1974)


@pytest.mark.parametrize("beyond", [1.0, 2.0, 3.0, 4.0])
def test_its_tails_are_as_heavy_as_they_should_be(
    noise: npt.NDArray[np.float64], beyond: float
) -> None:
    for tail in (noise, -noise):
        found, expected = np.count_nonzero(tail > beyond), COUNT * stats.norm.sf(beyond)
        assert abs(found - expected) < 4 * math.sqrt(expected)


def test_the_largest_of_many_is_where_it_should_be(noise: npt.NDArray[np.float64]) -> None:
    """Between the 0.1 % and the 99.9 % point of the largest of a million."""
    low, high = stats.norm.isf(-np.expm1(np.log([0.001, 0.999]) / COUNT))
    assert low < noise.max() < high
    assert low < -noise.min() < high


def correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """In standard errors."""
    return float(np.corrcoef(one, other)[0, 1]) * math.sqrt(len(one))


@pytest.mark.parametrize("apart", [1, 2, 7, 4096, COUNT // 2, PAIRS, 2 * PAIRS])
def test_coordinates_are_independent_in_value_and_in_size(
    noise: npt.NDArray[np.float64], apart: int
) -> None:
    """A pair of deviates, half a block apart, shares a radius; blocks follow each other."""
    first, second = noise[:-apart], noise[apart:]
    assert abs(correlation(first, second)) < 4
    assert abs(correlation(first**2, second**2)) < 4
    assert abs(correlation(np.abs(first), second)) < 4


def test_pairs_point_everywhere_alike(noise: npt.NDArray[np.float64]) -> None:
    """The angle of the two deviates of a pair is uniform, and the radius Rayleigh distributed."""
    cosines, sines = noise[:PAIRS], noise[PAIRS : 2 * PAIRS]
    turns = np.arctan2(sines, cosines) / (2 * math.pi) + 0.5
    assert stats.kstest(turns, "uniform").pvalue > 0.01
    assert stats.kstest(np.hypot(cosines, sines), "rayleigh").pvalue > 0.01


def test_steps_and_keys_have_noise_of_their_own(noise: npt.NDArray[np.float64]) -> None:
    others = [added(step=1), added(step=2), added(seed=1), added(seed=1, step=1)]
    for place, other in enumerate(others):
        for before in (noise, *others[:place]):
            assert abs(correlation(other, before)) < 4
            assert abs(correlation(other**2, before**2)) < 4
            assert np.count_nonzero(other == before) < 10


def test_nothing_repeats_within_a_step_or_between_steps() -> None:
    """Float32 hides the lowest bits: of equal values two in a row are a repetition."""
    drawn = [added(step=step, count=300_000) for step in range(4)]
    pairs = [np.stack([each[:-1], each[1:]], axis=1) for each in drawn]
    assert len(np.unique(np.concatenate(pairs), axis=0)) == sum(map(len, pairs))


def test_the_same_stream_is_the_same_release() -> None:
    assert np.array_equal(added(3, 5, 10_001), added(3, 5, 10_001))


def test_noise_meets_the_sum_in_float64_and_is_rounded_once() -> None:
    streams = RoundStreams(bytes(32))
    total = torch.randn(1001, generator=torch.manual_seed(0), dtype=torch.float64)
    exact = total + DEVIATION * torch.from_numpy(streams.stream("noise").normal(1001))
    found = noised(total, MECHANISM, streams.stream("noise"))
    assert found.dtype == torch.float32
    assert torch.equal(found, exact.float())


def test_the_sum_is_left_as_it_was() -> None:
    total = torch.ones(100)
    noised(total, MECHANISM, RoundStreams(bytes(32)).stream("noise"))
    assert torch.equal(total, torch.ones(100))


def test_without_privacy_nothing_is_added() -> None:
    total = torch.ones(10)
    none = NoMechanism(sampling_rate=0.5, divisor=8.0)
    assert torch.equal(noised(total, none, RoundStreams(bytes(32)).stream("noise")), total)
