"""Whatever a patient marks, adding that patient moves the counts by no more than the bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.figures.release import Release, pool, pooled_variance, tally

EXTREME = [-(2**63), 2**63 - 1, -1, 0]


@st.composite
def releases(draw: st.DrawFn) -> Release:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    once = [axis for axis in range(len(shape)) if draw(st.booleans())]
    return Release(tuple(shape), tuple(once))


def marks(axes: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Cells of one patient: some inside, some not, many alike; also what is no array of cells."""
    number = st.integers(-1, 4) | st.sampled_from(EXTREME)
    lists = st.lists(st.lists(number, min_size=axes, max_size=axes), max_size=40)
    sound = lists.map(lambda cells: np.array(cells, dtype=np.int64).reshape(-1, axes))
    return sound | sound.flatmap(
        lambda cells: st.sampled_from(
            [
                cells.astype(np.float64),
                cells.astype(object),
                cells.astype(np.uint64),
                cells.astype(np.int8),
                cells[:, 1:],
                cells[:, None],
                np.concatenate([cells, cells], axis=1),
                np.array(7),
                np.array("cells"),
                np.full((3, axes), np.nan),
                np.empty((0, 0), dtype=np.int64),
            ]
        )
    )


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Release, list[np.ndarray[Any, Any]], int]:
    """A release, what patients mark, and the number of the patient in question."""
    release = draw(releases())
    patients = draw(st.lists(marks(len(release.shape)), min_size=1, max_size=4))
    return release, patients, draw(st.integers(0, len(patients) - 1))


EVERY_CELL = np.argwhere(np.ones((3, 3, 4)))


@given(cohorts())
@example((Release((3, 3, 4), once=(0, 2)), [EVERY_CELL, np.tile(EVERY_CELL, (9, 1))], 1))
def test_adding_a_patient_moves_the_counts_by_at_most_the_bound(
    cohort: tuple[Release, list[np.ndarray[Any, Any]], int],
) -> None:
    release, patients, number = cohort
    others = patients[:number] + patients[number + 1 :]
    everyone, rest = tally(patients, release), tally(others, release)
    moved = everyone - rest

    assert everyone.shape == moved.shape == release.shape
    assert everyone.dtype == np.int64
    assert math.sqrt(float((moved**2).sum())) <= release.bound * (1 + 1e-12)
    assert moved.min(initial=0) >= 0
    assert moved.sum(axis=release.once).max(initial=0) <= 1
    # What the one adds does not depend on who else is there.
    assert moved.tolist() == tally([patients[number]], release).tolist()


@given(cohorts())
def test_each_place_counts_the_first_of_a_patients_marks_in_it(
    cohort: tuple[Release, list[np.ndarray[Any, Any]], int],
) -> None:
    """By a loop over cells."""
    release, patients, number = cohort
    cells = np.argwhere(np.ones(release.shape))[number:]
    wanted, taken = np.zeros(release.shape, dtype=np.int64), set()
    for cell in cells:
        place = tuple(np.delete(cell, release.once))
        wanted[tuple(cell)] += place not in taken
        taken.add(place)

    assert tally([cells], release).tolist() == wanted.tolist()
    assert tally([np.concatenate([cells, cells[::-1]])], release).tolist() == wanted.tolist()
    if number == 0:
        assert wanted.sum() == release.votes
    assert len(patients) == 1 or tally([cells] * 2, release).tolist() == (2 * wanted).tolist()


def test_a_mark_outside_is_dropped_and_leaves_its_place_to_the_next() -> None:
    release = Release((2, 3), once=(1,))
    given = np.array([[0, 3], [2, 0], [-1, 1], [0, -1], [0, 2], [1, 1], [1, 0], [1, 1]])

    assert tally([given], release).tolist() == [[0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("release", "places", "votes"),
    [
        (Release((2, 1, 20), once=(0, 2)), (1,), 1),
        (Release((3, 3, 20), once=(0, 2)), (3,), 3),
        (Release((4, 23), once=(1,)), (4,), 4),
        (Release((5,), once=(0,)), (), 1),
        (Release((5, 2), once=()), (5, 2), 10),
    ],
)
def test_the_bound_is_the_root_of_the_places(
    release: Release, places: tuple[int, ...], votes: int
) -> None:
    assert (release.places, release.votes) == (places, votes)
    assert release.bound == math.sqrt(votes)
    assert release.size == math.prod(release.shape)


def test_nobody_leaves_every_count_at_zero() -> None:
    assert not tally([], Release((2, 3), once=(1,))).any()


@given(st.integers(0, 2**32), st.permutations(range(4)))
def test_pooling_adds_negative_cells_as_they_are_in_any_order(seed: int, order: list[int]) -> None:
    sites = np.random.default_rng(seed).integers(-5, 6, (4, 2, 1, 6))
    pooled = pool(sites[order])

    assert pooled.dtype == np.int64
    assert pooled.tolist() == sites.sum(axis=0).tolist()


def test_variance_adds_up_over_sites_with_the_rounding_of_those_that_add_noise() -> None:
    assert pooled_variance([2.0, 3.0, 0.0]) == pytest.approx(4.0 + 9.0 + 2.0 / 12.0)
    rounded = np.rint(np.random.default_rng(0).normal(0.0, 2.0, 200_000))
    assert rounded.var() == pytest.approx(pooled_variance([2.0]), rel=0.02)


def test_releases_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        pool([np.zeros((2, 1, 4), np.int64), np.zeros((2, 1, 6), np.int64)])
    with pytest.raises(ValueError, match="no release"):
        pool([])
