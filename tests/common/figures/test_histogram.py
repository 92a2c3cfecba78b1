from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.figures.histogram import (
    histogram,
    one_vs_rest,
    plane_scores,
    planes,
    release_shape,
)
from common.figures.release import pool
from tests.common.studies import classification

BELOW_HALF = np.nextafter(0.5, 0.0)


def random_votes(
    seed: int, patients: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:  # probabilities, labels
    generator = np.random.default_rng(seed)
    scores = generator.dirichlet(np.full(classes, 0.5), size=patients)
    return scores, generator.integers(0, classes, patients)


def test_binary_scores_are_the_positive_class_s_probability_by_hand() -> None:
    scores = np.array([[1.0, 0.0], [0.76, 0.24], [0.5, 0.5], [0.3, 0.7], [0.0, 1.0]])
    counts = histogram(scores, np.array([0, 0, 1, 1, 1]), classes=2, bins=4)

    assert counts.dtype == np.int64
    assert counts.tolist() == [[[2, 0, 0, 0]], [[0, 0, 2, 1]]]


def test_multiclass_scores_weigh_each_class_against_its_strongest_rival_by_hand() -> None:
    assert plane_scores(np.array([[0.6, 0.3, 0.1]])) == pytest.approx(
        np.array([[0.6 / 0.9, 0.3 / 0.9, 0.1 / 0.7]])
    )


@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([2, 6, 10, 14, 50]))
def test_a_patient_adds_one_to_one_bin_of_each_plane_of_the_true_class(
    seed: int, classes: int, bins: int
) -> None:
    scores, labels = random_votes(seed, 7, classes)
    counts = histogram(scores, labels, classes=classes, bins=bins)
    without = histogram(scores[1:], labels[1:], classes=classes, bins=bins)
    added = counts - without

    assert added.shape == release_shape(classes, bins)
    assert added[labels[0]].sum(axis=1).tolist() == [1] * planes(classes)
    assert np.delete(added, labels[0], axis=0).sum() == 0
    assert np.linalg.norm(added) == pytest.approx(
        classification(classes=classes).release(bins).bound
    )


@given(st.integers(0, 2**32), st.integers(3, 6))
def test_exactly_the_named_class_reaches_one_half(seed: int, classes: int) -> None:
    scores, _ = random_votes(seed, 50, classes)

    assert (plane_scores(scores) >= 0.5).nonzero()[1].tolist() == scores.argmax(axis=1).tolist()


def test_a_tie_names_the_positive_one_of_two_classes_and_the_first_of_more() -> None:
    assert plane_scores(np.array([[0.5, 0.5]])).tolist() == [[0.5]]
    tied = plane_scores(np.array([[0.2, 0.4, 0.4]]))[0]
    assert tied.tolist() == [pytest.approx(0.2 / 0.6), 0.5, BELOW_HALF]


@pytest.mark.parametrize("bins", [2, 6, 10, 18, 20, 34, 50])
def test_a_score_just_below_one_half_stays_below_the_edge(bins: int) -> None:
    scores = np.array([[1.0 - BELOW_HALF, BELOW_HALF], [0.5, 0.5]])
    counts = histogram(scores, np.array([0, 1]), classes=2, bins=bins)

    assert counts[0, 0, bins // 2 - 1] == 1
    assert counts[1, 0, bins // 2] == 1


@pytest.mark.parametrize("vote", [[np.nan, 0.5, 0.5], [np.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_a_vote_that_says_nothing_counts_as_even_and_is_not_left_out(vote: list[float]) -> None:
    even = plane_scores(np.full((1, 3), 1.0 / 3.0))

    assert plane_scores(np.array([vote])).tolist() == even.tolist()


def test_no_patients_make_an_empty_histogram() -> None:
    assert not histogram(np.empty((0, 3)), np.empty(0, np.int64), classes=3, bins=4).any()


@given(st.integers(0, 2**32), st.integers(2, 4))
def test_sites_pooled_without_noise_are_one_big_site(seed: int, classes: int) -> None:
    scores, labels = random_votes(seed, 40, classes)
    parts = [
        histogram(scores[site::3], labels[site::3], classes=classes, bins=10) for site in range(3)
    ]

    assert (pool(parts) == histogram(scores, labels, classes=classes, bins=10)).all()


def test_one_class_against_the_rest_reads_its_own_score_upwards() -> None:
    binary = np.array([[[5, 1]], [[2, 7]]])
    assert [side.tolist() for side in one_vs_rest(binary, 1)] == [[2, 7], [5, 1]]
    assert [side.tolist() for side in one_vs_rest(binary, 0)] == [[1, 5], [7, 2]]
    three = np.arange(18).reshape(3, 3, 2)
    assert [side.tolist() for side in one_vs_rest(three, 1)] == [[8, 9], [2 + 14, 3 + 15]]


@pytest.mark.parametrize("bins", [0, 3, -2])
def test_bins_without_an_edge_at_one_half_are_refused(bins: int) -> None:
    with pytest.raises(ValueError, match="even"):
        release_shape(2, bins)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        planes(1)
    with pytest.raises(ValueError, match="outside"):
        histogram(np.full((1, 2), 0.5), np.array([2]), classes=2, bins=2)
    with pytest.raises(ValueError, match="do not fit"):
        histogram(np.full((2, 2), 0.5), np.array([1]), classes=2, bins=2)
    with pytest.raises(ValueError, match="not of shape"):
        plane_scores(np.array([0.5]))
