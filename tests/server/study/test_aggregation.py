"""The sum is exact, independent of order, and of constant size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.study.aggregation import AggregationSettings, share_of
from common.study.fixed_point import INT64_MAX, FixedPoint
from server.study.aggregation import Gathered, WeightedSum, begin
from server.study.weighing import capped

FIXED_POINT = FixedPoint(dtype="int32", fraction_bits=24)
UNIT = 2.0**-24


def test_mean_of_two_sites_by_hand() -> None:
    fold = WeightedSum(2, {"north": 3, "south": 1})
    fold.add("north", np.array([4, -8], dtype=np.int32))
    fold.add("south", np.array([8, 0], dtype=np.int32))
    np.testing.assert_array_equal(fold.total, [3 * 4 + 8, -3 * 8])
    np.testing.assert_array_equal(fold.mean(FIXED_POINT), [5 * UNIT, -6 * UNIT])


def test_only_the_sites_that_answered_count_in_the_mean() -> None:
    fold = WeightedSum(1, {"north": 3, "south": 1, "absent": 1000})
    fold.add("north", np.array([4], dtype=np.int32))
    fold.add("south", np.array([8], dtype=np.int32))
    np.testing.assert_array_equal(fold.mean(FIXED_POINT), [5 * UNIT])


@given(
    st.lists(
        st.tuples(
            st.integers(1, 10_000),
            st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.randoms(),
)
def test_any_order_gives_the_same_bytes_and_the_exact_sum(
    replies: list[tuple[int, list[int]]], shuffler: object
) -> None:
    weights = {str(number): weight for number, (weight, _) in enumerate(replies)}
    order = list(weights)
    shuffler.shuffle(order)  # type: ignore[attr-defined]
    forward, shuffled = WeightedSum(3, weights), WeightedSum(3, weights)
    for name in weights:
        forward.add(name, np.array(replies[int(name)][1], dtype=np.int32))
    for name in order:
        shuffled.add(name, np.array(replies[int(name)][1], dtype=np.int32))
    exact = [sum(weight * units[entry] for weight, units in replies) for entry in range(3)]
    assert forward.total.tolist() == exact
    assert forward.mean(FIXED_POINT).tobytes() == shuffled.mean(FIXED_POINT).tobytes()


def test_largest_sum_that_the_proof_allows_does_not_overflow() -> None:
    fixed_point = FixedPoint(dtype="int64", fraction_bits=40)
    weight = INT64_MAX // fixed_point.limit
    fixed_point.prove_no_overflow((weight,))
    fold = WeightedSum(2, {"north": weight})
    fold.add("north", np.array([fixed_point.limit, -fixed_point.limit]))
    assert fold.total.tolist() == [weight * fixed_point.limit, -weight * fixed_point.limit]


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_a_site_is_never_counted_twice(strategy: str) -> None:
    fold = begin(AggregationSettings(strategy=strategy), 1, {"north": 1})
    fold.add("north", np.array([1], dtype=np.int32))
    with pytest.raises(ValueError, match="north"):
        fold.add("north", np.array([1], dtype=np.int32))


CAPPED = AggregationSettings(max_share=0.5)


def test_a_capped_share_is_kept_among_those_that_answered_by_hand() -> None:
    """210 beside 100 and 60 counts 160; beside 60 alone, 60."""
    weights = {"north": 100, "south": 60, "west": 210}
    fold = begin(CAPPED, 1, weights)
    assert isinstance(fold, WeightedSum)
    for site, units in (("west", 10), ("south", -2)):
        fold.add(site, np.array([units], dtype=np.int32))
    assert fold.weights == {"south": 60, "west": 60}
    assert fold.total.tolist() == [60 * 10 - 60 * 2]
    np.testing.assert_array_equal(fold.mean(FIXED_POINT), [4 * UNIT])
    fold.add("north", np.array([7], dtype=np.int32))
    assert fold.weights == {"north": 100, "south": 60, "west": 160}
    assert fold.total.tolist() == [100 * 7 - 60 * 2 + 160 * 10]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(-99, 99)), min_size=1, max_size=9),
    st.sampled_from([0.12, 0.2, 0.25, 1 / 3, 0.5, 0.7, 1.0]),
    st.randoms(),
)
def test_a_capped_sum_is_exact_in_any_order_and_holds_few_updates(
    replies: list[tuple[int, int]], share: float, shuffler: object
) -> None:
    weights = {str(number): weight for number, (weight, _) in enumerate(replies)}
    fold = WeightedSum(1, weights, share_of(share))
    order = list(weights)
    shuffler.shuffle(order)  # type: ignore[attr-defined]
    for site in order:
        fold.add(site, np.array([replies[int(site)][1]], dtype=np.int32))
        assert len(fold._heaviest) < 1 / share_of(share)  # noqa: SLF001 - what it holds
    exact = capped(weights, share_of(share))
    assert fold.weights == exact
    assert fold.total.tolist() == [
        sum(weight * replies[int(site)][1] for site, weight in exact.items())
    ]


def test_gathered_replies_count_within_the_share_too() -> None:
    fold = begin(AggregationSettings(strategy="krum", max_share=0.5), 1, {"a": 5, "b": 2})
    for site in "ab":
        fold.add(site, np.array([0], dtype=np.int32))
    contributions = fold.contributions(np.zeros(1, dtype=np.float32), FIXED_POINT)
    assert [count for _, count in contributions] == [2, 2]


def test_more_entries_than_a_piece_are_all_added() -> None:
    units = np.arange(600_000, dtype=np.int32)
    fold = WeightedSum(units.size, {"north": 2})
    fold.add("north", units)
    np.testing.assert_array_equal(fold.total, 2 * units.astype(np.int64))


def test_gathered_replies_are_in_the_order_of_the_names() -> None:
    fold = Gathered({"b": 2, "a": 1})
    fold.add("b", np.array([2**24], dtype=np.int32))
    fold.add("a", np.array([-(2**24)], dtype=np.int32))
    current = np.array([0.5], dtype=np.float32)
    contributions = fold.contributions(current, FIXED_POINT)
    assert [(weights.tolist(), count) for weights, count in contributions] == [
        ([-0.5], 1),
        ([1.5], 2),
    ]


def test_strategies_of_order_statistics_gather_and_the_others_do_not() -> None:
    assert isinstance(begin(AggregationSettings(strategy="krum"), 1, {}), Gathered)
    assert isinstance(begin(AggregationSettings(strategy="fedadam"), 1, {}), WeightedSum)
