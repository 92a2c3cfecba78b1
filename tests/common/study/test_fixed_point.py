"""Fixed-point updates: half a unit of error, exact sums, and a proof against overflow."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from pydantic import ValidationError

from common.errors import StudyError
from common.study.fixed_point import INT64_MAX, FixedPoint

Dtype = Literal["int32", "int64"]
POINTS = st.builds(
    FixedPoint, dtype=st.sampled_from(["int32", "int64"]), fraction_bits=st.integers(8, 30)
)
CHANGES = nps.arrays(np.float64, nps.array_shapes(max_dims=2), elements=st.floats(-200, 200))


@given(POINTS, CHANGES)
def test_what_is_decoded_is_within_half_a_unit_or_saturated(
    point: FixedPoint, change: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    units = point.encode(change)
    assert units.dtype == point.dtype
    assert units.shape == change.shape
    largest = point.limit * point.unit
    inside = np.abs(change) <= largest
    assert (np.abs(point.decode(units) - change)[inside] <= point.unit / 2).all()
    assert (np.abs(units[~inside].astype(np.int64)) == point.limit).all()


@pytest.mark.parametrize(
    ("value", "units"),
    [(0.0, 0), (0.5, 128), (-0.5, -128), (1 / 512, 0), (3 / 512, 2), (-1 / 512, 0), (-3 / 512, -2)],
)
def test_halves_go_to_the_even_unit(value: float, units: int) -> None:
    assert FixedPoint(fraction_bits=8).encode(np.array([value])).tolist() == [units]


@pytest.mark.parametrize(("dtype", "limit"), [("int32", 2**31 - 1), ("int64", 2**47 - 1)])
def test_what_is_too_large_saturates_on_either_side_alike(dtype: Dtype, limit: int) -> None:
    point = FixedPoint(dtype=dtype)
    assert point.encode(np.array([1e30, -1e30])).tolist() == [limit, -limit]
    assert point.encode(np.array([3e38, -3e38], dtype=np.float32)).tolist() == [limit, -limit]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        FixedPoint().encode(np.array([0.0, value]))


@given(
    nps.arrays(np.int32, (5, 3)),
    st.permutations(range(5)),
    st.lists(st.integers(1, 1000), min_size=5, max_size=5),
    st.integers(1, 4),
)
def test_sums_depend_on_no_order_and_no_grouping(
    updates: np.ndarray[Any, np.dtype[np.int32]], order: list[int], weights: list[int], cut: int
) -> None:
    weighted = [
        each.astype(np.int64) * weight for each, weight in zip(updates, weights, strict=True)
    ]
    exact = [sum(int(each[column]) for each in weighted) for column in range(3)]
    assert sum(weighted[place] for place in order).tolist() == exact
    halves = [sum(weighted[:cut]), sum(weighted[cut:])]
    assert np.sum(halves, axis=0).tolist() == exact


@given(st.sampled_from(["int32", "int64"]), st.lists(st.integers(1, 2**40), min_size=1))
def test_the_proof_holds_for_exactly_the_weights_that_fit(dtype: Dtype, weights: list[int]) -> None:
    point = FixedPoint(dtype=dtype)
    fits = point.limit * sum(weights) <= INT64_MAX
    if fits:
        point.prove_no_overflow(tuple(weights))
        extreme = np.full(1, point.limit, dtype=np.int64)
        total = np.sum([weight * extreme for weight in weights], axis=0)
        assert int(total[0]) == point.limit * sum(weights)
    else:
        with pytest.raises(StudyError, match="could overflow"):
            point.prove_no_overflow(tuple(weights))


def test_the_largest_weight_that_fits_is_named() -> None:
    FixedPoint(dtype="int64").prove_no_overflow((65536,))
    with pytest.raises(StudyError) as caught:
        FixedPoint(dtype="int64").prove_no_overflow((65536, 1))
    assert caught.value.details["found"] == "65537"
    assert caught.value.details["wanted"] == "at most 65536"


def test_a_fixed_point_that_holds_no_weight_is_refused() -> None:
    FixedPoint(dtype="int64", fraction_bits=46)
    with pytest.raises(ValidationError, match="cannot hold a change larger"):
        FixedPoint(dtype="int32", fraction_bits=38)
