from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.figures.errors import (
    edges,
    explained,
    in_cells,
    in_even_cells,
    known,
    place,
    scaled,
    together,
)
from common.figures.intervals import Estimate, absent


def test_edges_are_squares_and_belong_to_the_cell_nearer_to_0() -> None:
    assert edges(4).tolist() == [-1.0, -0.25, 0.0, 0.25, 1.0]
    errors = (-1.1, -1.0, -0.3, -0.25, 0.0, 0.25, 0.3, 1.0, 1.1)
    assert [place(each, 4) for each in errors] == [0, 1, 1, 2, 3, 3, 4, 4, 5]


@given(st.floats(-2.0, 2.0), st.integers(1, 20).map(lambda half: 2 * half))
def test_an_error_lies_in_its_cell(error: float, bins: int) -> None:
    cells = in_cells(np.zeros(bins + 2, dtype=np.int64), noise=0.0)
    at = place(error, bins)
    assert cells.low[at] <= np.clip(error, -1.0, 1.0) <= cells.high[at]


@given(st.floats(0.0, 1.0), st.floats(0.05, 1.0))
def test_squares_of_an_even_cell_are_their_mean_and_none_lies_beyond_what_is_hidden(
    about: float, most: float
) -> None:
    """Against many values in each cell; of a single cell nothing says that it is even."""
    for at in range(3):
        counts = np.zeros(3, dtype=np.int64)
        counts[at] = 1
        squares = in_even_cells(counts, noise=0.0).squares(about, most)
        values = np.linspace(at / 3.0, (at + 1.0) / 3.0, 20_001)
        each = np.minimum((values - about) ** 2, most**2)
        assert squares.total == pytest.approx(each.mean(), abs=1e-4)
        assert np.abs(each - squares.total).max() <= squares.hidden + 1e-9


def test_of_two_cells_of_a_size_the_absolute_errors_are_one() -> None:
    cells = together(
        [
            in_cells(np.array([1, 2, 3, 4, 5, 6]), noise=2.0),
            in_cells(np.array([1, 0, 0, 0, 0, 0]), noise=2.0),
        ]
    )
    size = cells.absolute()
    assert size.counts.tolist() == [7.0, 7.0, 8.0]
    assert (size.low.tolist(), size.high.tolist()) == ([0.0, 0.25, 1.0], [0.25, 1.0, 1.0])
    assert size.noise == 8.0


def test_r2_of_values_by_hand() -> None:
    """Squared errors 4 * 0.01, of distances 0.04 + 0.16 each twice; 0.16 counts as 0.09."""
    truth = np.array([0.1, 0.3, 0.7, 0.9])
    errors = np.full(4, 0.1)
    assert explained(known(errors), known(truth), 1.0).value == pytest.approx(1 - 0.04 / 0.4)
    found = explained(known(errors / 0.3), known(truth), 0.3)
    assert found.value == pytest.approx(1 - 0.04 / 0.26)


def test_why_r2_means_nothing_tells_noise_from_few_patients_and_coarse_bins() -> None:
    def why(errors: list[int], numbers: list[int], noise: float = 0.0) -> str | None:
        cells = in_cells(np.array(errors), noise=noise)
        return explained(cells, in_even_cells(np.array(numbers), noise=noise), 0.25).why

    good = [0, 0, 0, 1, 2, 9, 9, 2, 1, 0, 0, 0]
    wide = [1, 1, 2, 3, 3, 3, 3, 2, 1, 1]
    assert why([40 * each for each in good], [40 * each for each in wide]) is None
    assert why(good, wide) == "too few patients: 20 patients"
    assert why([40 * each for each in good], [40 * each for each in wide], 4e4) == (
        "noise exceeds signal: 800 patients read through noise of ±1240"
    )
    assert why([0, 400, 400, 0], [400, 400]) == (
        "bins too coarse: each holds a wide range of values"
    )
    assert why(good, [-each for each in wide], 9.0) == (
        "noise exceeds signal: -20 patients read through noise of ±19"
    )
    assert why([0, 0, 0, 0], [0, 0]) == "too few patients: 0 patients"


def test_a_figure_on_another_range_keeps_its_reason() -> None:
    few = Estimate(0.5, 0.25, 1.0, meaningful=False, why="few")
    assert scaled(few, -2.0, 2.0) == Estimate(0.0, -1.0, 2.0, meaningful=False, why="few")
    assert scaled(absent("none"), -2.0, 2.0) == absent("none")
