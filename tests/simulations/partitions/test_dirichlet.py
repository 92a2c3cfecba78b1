from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from simulations.partitions.dirichlet import Floor, dirichlet_partition, draw_counts

LABELS = np.repeat([0, 1], [1349, 3883])


@given(
    sizes=st.lists(st.integers(0, 500), min_size=1, max_size=6),
    sites=st.integers(1, 9),
    alpha=st.floats(0.01, 100),
    seed=st.integers(0, 2**32),
)
def test_every_patient_goes_to_one_site(
    sizes: list[int], sites: int, alpha: float, seed: int
) -> None:
    counts = draw_counts(np.array(sizes), sites, alpha, np.random.default_rng(seed))
    assert counts.shape == (len(sizes), sites)
    assert (counts >= 0).all()
    assert counts.sum(axis=1).tolist() == sizes


@given(
    labels=st.lists(st.integers(0, 2), min_size=60, max_size=200),
    sites=st.integers(1, 3),
    alpha=st.floats(0.5, 10),
    seed=st.integers(0, 2**32),
)
def test_the_sites_hold_everyone_once_and_enough_of_each_class(
    labels: list[int], sites: int, alpha: float, seed: int
) -> None:
    floor = Floor(patients=5, per_class=1)
    everyone = np.array(labels)
    try:
        partition = dirichlet_partition(everyone, sites, alpha, np.random.default_rng(seed), floor)
    except DataError:
        return  # too few of a class; tested below
    together = np.concatenate(partition.sites)
    assert sorted(together.tolist()) == list(range(len(labels)))
    for members in partition.sites:
        assert len(members) >= floor.patients
        assert set(everyone[members].tolist()) == set(labels)
        assert (np.diff(members) > 0).all()


def test_the_same_seed_divides_alike_and_another_does_not() -> None:
    first, second, other = (
        dirichlet_partition(LABELS, 4, 0.5, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert [each.tolist() for each in first.sites] == [each.tolist() for each in second.sites]
    assert [len(each) for each in first.sites] != [len(each) for each in other.sites]


def test_redraws_are_the_next_draws_of_the_same_generator() -> None:
    partition = dirichlet_partition(LABELS, 4, 0.1, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    draws = [draw_counts(np.array([1349, 3883]), 4, 0.1, rng) for _ in range(partition.redraws + 1)]
    enough = [bool((each >= 10).all() and (each.sum(axis=0) >= 100).all()) for each in draws]
    assert partition.redraws > 0
    assert enough == [False] * partition.redraws + [True]
    assert [len(each) for each in partition.sites] == draws[-1].sum(axis=0).tolist()


def test_a_large_alpha_divides_evenly_and_a_small_one_does_not() -> None:
    def spread(alpha: float) -> float:
        rng = np.random.default_rng(0)
        draws = [draw_counts(np.array([1000, 1000]), 4, alpha, rng) for _ in range(200)]
        return float(np.std(draws))

    # A share of Dirichlet(a, a, a, a) has variance 3 / (16 (4 a + 1)).
    assert spread(0.5) == pytest.approx(1000 * (3 / 48) ** 0.5, rel=0.1)
    assert spread(1000) < 10


def test_too_many_sites_says_how_many_could_be() -> None:
    with pytest.raises(DataError, match="use at most 6 sites"):
        dirichlet_partition(np.repeat([0, 1], [168, 456]), 7, 0.5, np.random.default_rng(0))


def test_a_file_too_small_for_one_site_says_so() -> None:
    with pytest.raises(DataError, match="use a larger file"):
        dirichlet_partition(np.repeat([0, 1], [9, 456]), 1, 0.5, np.random.default_rng(0))


@settings(max_examples=settings().max_examples // 6, deadline=None)
@given(
    patients=st.integers(420, 700),
    alpha=st.sampled_from([1e-3, 0.0123456789, 0.02]),
    seed=st.integers(0, 2**64),
)
def test_what_is_advised_works_with_the_same_seed(patients: int, alpha: float, seed: int) -> None:
    """With barely enough patients, what works for one seed fails for the next."""
    labels = np.arange(patients) % 2
    with pytest.raises(DataError, match="none of 1000 random divisions") as error:
        dirichlet_partition(labels, 4, alpha, np.random.default_rng(seed))
    told = str(error.value.details["do"])
    advised = re.search(r"--alpha ([0-9.e+-]+),", told.replace(":", ","))
    assert advised is not None
    dirichlet_partition(labels, 4, float(advised[1]), np.random.default_rng(seed))
    fewer = re.search(r"--sites (\d+)", told)
    if fewer:
        dirichlet_partition(labels, int(fewer[1]), alpha, np.random.default_rng(seed))


def test_where_no_alpha_works_a_larger_file_is_advised() -> None:
    # Exactly half of each class to each: no random division of so many is as even.
    labels = np.arange(400_000) % 2
    with pytest.raises(DataError, match=r"do: +use a larger file") as error:
        dirichlet_partition(labels, 2, 1e3, np.random.default_rng(0), Floor(200_000, 100_000))
    assert "--alpha " not in error.value.details["do"]


@pytest.mark.parametrize(
    ("sites", "alpha"), [(0, 0.5), (2, 0.0), (2, -1.0), (2, float("nan")), (2, 1e-300), (2, 1e300)]
)
def test_what_cannot_be_meant_is_refused(sites: int, alpha: float) -> None:
    with pytest.raises(DataError, match="cannot be divided with these numbers"):
        dirichlet_partition(LABELS, sites, alpha, np.random.default_rng(0))
