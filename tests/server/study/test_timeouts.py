"""A silent site costs a round less and less, and never more than the study says."""

from __future__ import annotations

from server.study.timeouts import ReplyTimeouts

HALF_AN_HOUR = 1800.0


def test_a_site_is_waited_for_as_long_as_the_study_says() -> None:
    assert ReplyTimeouts().seconds("north", HALF_AN_HOUR) == HALF_AN_HOUR


def test_each_silence_halves_the_waiting_down_to_a_minute() -> None:
    timeouts, waits = ReplyTimeouts(), []
    for _ in range(7):
        waits.append(timeouts.seconds("north", HALF_AN_HOUR))
        timeouts.silent("north", "monday")
    assert waits == [1800, 900, 450, 225, 112.5, 60, 60]
    assert timeouts.seconds("south", HALF_AN_HOUR) == HALF_AN_HOUR


def test_who_needs_long_is_waited_for_twice_as_long_as_that() -> None:
    timeouts = ReplyTimeouts()
    timeouts.answered("north", 300)
    for _ in range(9):
        timeouts.silent("north", "monday")
    assert timeouts.seconds("north", HALF_AN_HOUR) == 600


def test_a_short_time_out_is_not_made_longer() -> None:
    timeouts = ReplyTimeouts()
    timeouts.silent("north", "monday")
    assert timeouts.seconds("north", 5) == 5


def test_who_answers_or_comes_back_has_all_the_time_again() -> None:
    timeouts = ReplyTimeouts()
    timeouts.silent("north", "monday")
    timeouts.answered("north", 1)
    assert timeouts.seconds("north", HALF_AN_HOUR) == HALF_AN_HOUR
    timeouts.silent("north", "monday")
    assert not timeouts.is_back("north", "monday")
    assert timeouts.is_back("north", "tuesday")
    assert timeouts.seconds("north", HALF_AN_HOUR) == HALF_AN_HOUR


def test_who_was_never_there_is_back_when_it_comes() -> None:
    timeouts = ReplyTimeouts()
    timeouts.silent("north", None)
    assert timeouts.is_back("north", "monday")
