"""The cap on a site's share is kept exactly, in whole numbers, and lowers no more than it must."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.study.aggregation import AggregationSettings, share_of
from server.study.weighing import Counted, capped, counted, weigh


def test_weights_by_hand() -> None:
    """Of 100, 60 and 210 patients the largest may have one half: as much as both others."""
    patients = {"north": 100, "south": 60, "west": 210}
    assert weigh(AggregationSettings(), patients) == patients
    assert weigh(AggregationSettings(max_share=0.5), patients) == patients | {"west": 160}
    assert weigh(AggregationSettings(weights="equal"), patients) == dict.fromkeys(patients, 1)


def test_two_may_have_to_be_lowered() -> None:
    """At 0.4, c <= 0.4 x (2 c + 10) gives c <= 20; at 0.41, c = 22."""
    weights = {"a": 1000, "b": 500, "c": 10}
    assert capped(weights, Fraction("0.4")) == {"a": 20, "b": 20, "c": 10}
    assert capped(weights, Fraction("0.41")) == {"a": 22, "b": 22, "c": 10}


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=12), st.integers(1, 1000))
def test_the_cap_is_kept_and_the_next_larger_one_is_not(numbers: list[int], parts: int) -> None:
    weights = {str(at): number for at, number in enumerate(numbers)}
    share = max(Fraction(parts, 1000), Fraction(1, len(numbers)))

    def kept(cap: int) -> bool:
        cut = [min(number, cap) for number in numbers]
        return max(cut) <= share * sum(cut)

    found = capped(weights, share)
    cap = max(found.values())
    assert found == {site: min(weight, cap) for site, weight in weights.items()}
    assert kept(cap)
    assert cap == max(numbers) or not kept(cap + 1)


def test_fewer_sites_than_can_keep_the_share_count_alike() -> None:
    assert capped({"a": 1000, "b": 10}, Fraction(1, 3)) == {"a": 1, "b": 1}


def test_a_share_is_the_one_that_is_written() -> None:
    """0.1 in binary is a little more than a tenth."""
    assert share_of(0.1) == Fraction(1, 10) != Fraction(0.1)


def test_a_share_that_so_few_sites_cannot_keep_is_refused() -> None:
    AggregationSettings(max_share=0.5, min_sites=2)
    with pytest.raises(ValidationError, match=r"max_share 0\.49 is impossible with min_sites 2"):
        AggregationSettings(max_share=0.49, min_sites=2)


def test_shares_are_of_those_that_are_weighed() -> None:
    found = counted({"a": 30, "b": 50}, {"a": 30, "b": 10})
    assert found == {"a": Counted(30, 30, 0.75), "b": Counted(50, 10, 0.25)}
