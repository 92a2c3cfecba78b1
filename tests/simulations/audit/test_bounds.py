from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from simulations.audit.bounds import (
    MOST_EPSILON,
    ErrorRates,
    Guesses,
    at_most,
    curve_is_refuted_by_guesses,
    curve_is_refuted_by_rates,
    one_run_epsilon,
    one_run_p_value,
    rates_epsilon,
    tail_guesses,
)
from simulations.audit.tradeoff import sampled_gaussian


def test_without_privacy_loss_guesses_are_coin_tosses() -> None:
    assert one_run_p_value(Guesses(10, 3, 3), 0.0, 0.0) == pytest.approx(1 / 8)


def test_epsilon_log_3_is_right_three_times_in_four() -> None:
    assert one_run_p_value(Guesses(10, 3, 3), math.log(3), 0.0) == pytest.approx(27 / 64)


def test_delta_adds_twice_its_share_of_the_canaries_for_the_worst_number_of_turned_guesses() -> (
    None
):
    """Two of two right: 1/4, and max(P[1 right] / 1, P[0 or 1 right] / 2) = 1/2."""
    assert one_run_p_value(Guesses(4, 2, 2), 0.0, 0.01) == pytest.approx(1 / 4 + 2 * 4 * 0.01 / 2)


def test_a_hundred_right_guesses_prove_what_the_hundredth_root_of_the_failure_says() -> None:
    share = 0.05**0.01

    found = one_run_epsilon(Guesses(100, 100, 100), 0.0, 0.05)

    assert found == pytest.approx(math.log(share / (1 - share)))


def test_guessing_blindly_proves_nothing() -> None:
    assert one_run_epsilon(Guesses(1000, 1000, 500), 1e-5, 0.05) == 0.0


@given(made=st.integers(1, 60), right=st.integers(0, 59), delta=st.sampled_from([0.0, 1e-5, 1e-3]))
def test_one_more_right_guess_never_proves_less(made: int, right: int, delta: float) -> None:
    right = min(right, made - 1)

    fewer = one_run_epsilon(Guesses(60, made, right), delta, 0.05)
    more = one_run_epsilon(Guesses(60, made, right + 1), delta, 0.05)

    assert more >= fewer


def test_randomised_response_is_held_to_prove_more_than_its_epsilon_as_seldom_as_is_said() -> None:
    """Exactly: summed over all numbers of right guesses that would refute epsilon 1."""
    share = 1 / (1 + math.exp(-1.0))
    refuting = [
        right for right in range(101) if one_run_epsilon(Guesses(100, 100, right), 0.0, 0.05) > 1.0
    ]

    assert 0.01 < sum(binom.pmf(right, 100, share) for right in refuting) <= 0.05


def test_a_game_cannot_have_more_right_guesses_than_guesses() -> None:
    with pytest.raises(ValueError, match="no game ends with"):
        Guesses(10, 3, 4)


def test_nothing_seen_in_n_trials_bounds_a_probability_by_the_nth_root() -> None:
    assert at_most(0, 100, 0.05) == pytest.approx(1 - 0.05**0.01)
    assert at_most(100, 100, 0.05) == 1.0


def test_a_perfect_test_proves_the_log_of_the_two_intervals() -> None:
    """Each side gets half of the failure, each of its two intervals half of that."""
    most = 1 - 0.0125**0.01
    wanted = math.log((1 - most - 1e-5) / most)

    assert rates_epsilon(ErrorRates(100, 100, 100, 0), 1e-5, 0.05) == pytest.approx(wanted)


def test_members_that_are_all_called_in_prove_by_those_that_are_called_out() -> None:
    """10 of 100 members missed against 100 of 100 others is worth what its mirror image is."""
    rates = ErrorRates(100, 100, 100, 10)

    assert rates.reversed == ErrorRates(100, 90, 100, 0)
    assert rates_epsilon(rates, 0.0, 0.05) == rates_epsilon(rates.reversed, 0.0, 0.05) > 2


def test_a_test_that_is_never_wrong_on_many_proves_no_more_than_is_said() -> None:
    assert rates_epsilon(ErrorRates(10**9, 10**9, 10**9, 0), 1e-5, 0.05) < MOST_EPSILON


def test_the_highest_scores_are_called_in_and_as_many_of_the_lowest_out() -> None:
    scores = np.array([0.1, 5.0, -3.0, 0.2, 4.0, -2.0])
    members = np.array([True, True, False, False, False, True])

    assert tail_guesses(scores, members, 2) == Guesses(6, 2, 2)
    assert tail_guesses(scores, members, 4) == Guesses(6, 4, 2)


def gaussian_game(distance: float, canaries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    members = generator.random(canaries) < 0.5
    return distance * members + generator.standard_normal(canaries), members


def test_guesses_refute_a_gaussian_of_half_the_distance_and_not_the_true_one() -> None:
    true, half = sampled_gaussian(1.0, 1 / 3, 1), sampled_gaussian(1.0, 1 / 1.5, 1)
    scores, members = gaussian_game(3.0, 4000, seed=1)
    guesses = tail_guesses(scores, members, 400)

    assert curve_is_refuted_by_guesses(guesses, half, 0.05)
    assert not curve_is_refuted_by_guesses(guesses, true, 0.05)


def test_of_100_games_few_refute_the_gaussian_that_they_were_played_on() -> None:
    curve = sampled_gaussian(1.0, 1 / 1.5, 1)
    games = [gaussian_game(1.5, 400, seed) for seed in range(100)]

    refuted = [curve_is_refuted_by_guesses(tail_guesses(*game, 80), curve, 0.05) for game in games]

    assert sum(refuted) <= 5


def test_rates_refute_what_the_intervals_leave_no_room_for() -> None:
    """At distance 2 and threshold 1, 84 % of members and 16 % of others lie above."""
    rates = ErrorRates(10_000, 8413, 10_000, 1587)

    assert not curve_is_refuted_by_rates(rates, sampled_gaussian(1.0, 1 / 2.0, 1), 0.05)
    assert curve_is_refuted_by_rates(rates, sampled_gaussian(1.0, 1 / 1.8, 1), 0.05)
