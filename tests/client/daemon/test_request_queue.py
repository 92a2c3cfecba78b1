"""What is in hand: each request once, the newest message answered, nothing of a stopped study."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.daemon.request_queue import MOST_DEATHS, QueuedRequest, RequestQueue, Stopped

FIRST = QueuedRequest("one", "small", "a" * 64, 1, "train", 1, b"request 1")
SECOND = QueuedRequest("two", "large", "b" * 64, 1, "train", 2, b"request 2")


def at_work(*jobs: QueuedRequest) -> RequestQueue:
    hub = RequestQueue()
    for job in jobs:
        hub.arrive(job)
    hub.take()
    return hub


def sending(*jobs: QueuedRequest) -> RequestQueue:
    hub = at_work(*jobs)
    hub.answered(jobs[0].message, "ok", b"reply")
    hub.send()
    return hub


def test_requests_are_worked_on_one_at_a_time_in_the_order_of_their_coming() -> None:
    hub = at_work(FIRST, SECOND)
    assert hub.working == FIRST
    assert hub.take() is None
    hub.answered(1, "ok", b"reply")
    assert hub.take() == SECOND


def test_a_request_in_hand_is_not_taken_twice_and_its_newest_message_counts() -> None:
    hub = RequestQueue()
    newer = replace(FIRST, message=3, request=b"request 3")
    assert hub.arrive(FIRST)
    assert not hub.arrive(newer)
    assert hub.take() == newer


def test_asked_again_during_work_the_worker_is_asked_for_the_newest() -> None:
    hub = at_work(FIRST, SECOND)
    newer = replace(FIRST, message=3, request=b"request 3")
    hub.arrive(newer)
    assert hub.answered(1, "ok", b"for a message that nobody waits for") is None
    assert hub.take() == newer
    assert hub.answered(3, "ok", b"reply") is not None
    assert hub.take() == SECOND


def test_asked_again_before_the_reply_left_only_the_newest_is_answered() -> None:
    hub = at_work(FIRST)
    hub.answered(1, "ok", b"reply")
    hub.arrive(replace(FIRST, message=3))
    assert hub.send() is None
    assert hub.replies == 0


def test_silence_is_not_sent() -> None:
    hub = at_work(FIRST)
    assert hub.answered(1, "silence", b"") is None
    assert hub.send() is None


def test_a_reply_whose_line_broke_waits_before_all_others() -> None:
    hub = sending(FIRST, SECOND)
    hub.take()
    hub.answered(2, "ok", b"reply 2")
    hub.line_lost()
    again = hub.send()
    assert again is not None
    assert again.job == replace(FIRST, request=b"")


def test_a_reply_whose_line_broke_is_dropped_where_it_was_asked_again() -> None:
    for asked_again_is_at_work in (False, True):
        hub = sending(FIRST)
        hub.arrive(replace(FIRST, message=3))
        if asked_again_is_at_work:
            hub.take()
        hub.line_lost()
        assert hub.replies == 0


def test_a_request_goes_to_the_next_worker_until_too_many_died_of_it() -> None:
    hub = at_work(FIRST, SECOND)
    for _ in range(MOST_DEATHS - 1):
        assert hub.died() is None
        taken = hub.take()
        assert taken is not None
        assert taken.identity == "one"
    given_up = hub.died()
    assert given_up is not None
    assert given_up.deaths == MOST_DEATHS
    assert hub.take() == SECOND


def test_a_worker_that_the_daemon_ended_is_not_counted() -> None:
    hub = at_work(FIRST)
    for _ in range(MOST_DEATHS + 1):
        assert hub.died(killed=True) is None
        assert hub.take() == FIRST


def test_asking_again_does_not_forget_the_dead() -> None:
    hub = at_work(FIRST)
    hub.died()
    hub.arrive(replace(FIRST, message=3))
    taken = hub.take()
    assert taken is not None
    assert taken.deaths == 1


def test_a_stopped_study_leaves_nothing_and_others_go_on() -> None:
    hub = sending(FIRST, SECOND)
    hub.arrive(replace(FIRST, identity="three", round=2, message=3))
    third = hub.waiting["three"]
    assert hub.stop("small") == Stopped(worker=False, connection=True, forgotten=(third,))
    hub.line_lost()
    assert hub.take() == SECOND
    assert hub.send() is None
    assert hub.stop("large") == Stopped(worker=True, connection=False, forgotten=(SECOND,))
    assert hub.died() is None
    assert (hub.waiting, hub.outbox) == ({}, {})


def test_a_study_is_stopped_by_the_beginning_of_its_plans_hash_too() -> None:
    assert at_work(FIRST).stop("a" * 12).worker
    assert not at_work(FIRST).stop("b" * 12).worker
    assert not at_work(FIRST).stop("").worker
    assert not at_work(FIRST).stop("a" * 7).worker


def test_what_reads_as_a_hash_is_no_name_whatever_a_request_calls_its_study() -> None:
    named = replace(FIRST, study="deadbeef", plan_hash="c" * 64)
    assert not at_work(named).stop("deadbeef").worker
    assert not at_work(replace(FIRST, study="c" * 8)).stop("c" * 8).worker
    assert at_work(named).stop("CCCCCCCC").worker
    assert at_work(replace(named, study="dead")).stop("dead").worker  # too short for a hash


@pytest.mark.parametrize("study", ["small", "a" * 12])
def test_a_silenced_study_is_not_answered_until_it_may_speak(study: str) -> None:
    hub = at_work(FIRST, SECOND)
    hub.silence(study)
    hub.silence(study)
    hub.speak(study)
    assert hub.answered(1, "ok", b"reply") is None
    assert hub.take() == SECOND
    assert hub.answered(2, "ok", b"reply") is not None
    hub.speak(study)
    hub.arrive(FIRST)
    hub.take()
    assert hub.answered(1, "ok", b"reply") is not None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "take", "answer", "die", "send", "push", "lose", "stop"]),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_a_request_is_in_hand_once_or_has_a_newer_message(
    steps: list[tuple[str, str]],
) -> None:
    hub, message = RequestQueue(), 0
    for step, name in steps:
        if step == "arrive":
            message += 1
            hub.arrive(QueuedRequest(name, name, name * 8, 1, "train", message, b"request"))
        elif step == "answer" and hub.working:
            hub.answered(hub.working.message, "ok", b"reply")
        elif step == "stop":
            hub.stop(name)
            assert name not in hub.waiting
            assert name not in hub.outbox
        else:
            {"take": hub.take, "die": hub.died, "send": hub.send, "push": hub.pushed}.get(
                step, hub.line_lost
            )()
        working = {hub.working.identity} if hub.working else set()
        assert not hub.waiting.keys() & hub.outbox.keys()
        assert not working & (hub.waiting.keys() | hub.outbox.keys())
