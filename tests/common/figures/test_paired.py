"""Two models on the same patients."""

from __future__ import annotations

import numpy as np
import pytest

from common.figures.paired import paired

NAN = float("nan")


def test_the_mean_difference_is_that_of_the_pairs() -> None:
    found = paired([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert found is not None
    assert found.value == pytest.approx(0.2)
    # Student's quantile of two degrees of freedom, from a printed table.
    assert found.high - 0.2 == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-4)
    assert 0.2 - found.low == pytest.approx(found.high - 0.2)


def test_a_patient_who_lacks_one_of_the_numbers_is_left_out() -> None:
    assert paired([0.5, NAN, 0.7, 0.3], [0.4, 0.1, 0.5, NAN]) == paired([0.5, 0.7], [0.4, 0.5])


@pytest.mark.parametrize("values", [[], [0.5], [0.5, NAN]])
def test_fewer_than_two_patients_have_no_spread(values: list[float]) -> None:
    assert paired(values, values) is None


def test_the_interval_holds_the_difference_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        patients = rng.normal(0.7, 0.2, 20)
        found = paired([*(patients + rng.normal(0.02, 0.05, 20))], [*patients])
        assert found is not None
        held += found.low <= 0.02 <= found.high
    assert 930 <= held <= 970
