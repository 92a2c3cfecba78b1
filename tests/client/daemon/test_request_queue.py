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
    queue = RequestQueue()
    for job in jobs:
        queue.arrive(job)
    queue.take()
    return queue


def sending(*jobs: QueuedRequest) -> RequestQueue:
    queue = at_work(*jobs)
    queue.answered(jobs[0].message, "ok", b"reply")
    queue.send()
    return queue


def test_requests_are_worked_on_one_at_a_time_in_the_order_of_their_coming() -> None:
    queue = at_work(FIRST, SECOND)
    assert queue.working == FIRST
    assert queue.take() is None
    queue.answered(1, "ok", b"reply")
    assert queue.take() == SECOND


def test_a_request_in_hand_is_not_taken_twice_and_its_newest_message_counts() -> None:
    queue = RequestQueue()
    newer = replace(FIRST, message=3, request=b"request 3")
    assert queue.arrive(FIRST)
    assert not queue.arrive(newer)
    assert queue.take() == newer


def test_asked_again_during_work_the_worker_is_asked_for_the_newest() -> None:
    queue = at_work(FIRST, SECOND)
    newer = replace(FIRST, message=3, request=b"request 3")
    queue.arrive(newer)
    assert queue.answered(1, "ok", b"for a message that nobody waits for") is None
    assert queue.take() == newer
    assert queue.answered(3, "ok", b"reply") is not None
    assert queue.take() == SECOND


def test_asked_again_before_the_reply_left_only_the_newest_is_answered() -> None:
    queue = at_work(FIRST)
    queue.answered(1, "ok", b"reply")
    queue.arrive(replace(FIRST, message=3))
    assert queue.send() is None
    assert queue.replies == 0


def test_silence_is_not_sent() -> None:
    queue = at_work(FIRST)
    assert queue.answered(1, "silence", b"") is None
    assert queue.send() is None


def test_a_reply_whose_line_broke_waits_before_all_others() -> None:
    queue = sending(FIRST, SECOND)
    queue.take()
    queue.answered(2, "ok", b"reply 2")
    queue.line_lost()
    again = queue.send()
    assert again is not None
    assert again.job == replace(FIRST, request=b"")


def test_a_reply_whose_line_broke_is_dropped_where_it_was_asked_again() -> None:
    for asked_again_is_at_work in (False, True):
        queue = sending(FIRST)
        queue.arrive(replace(FIRST, message=3))
        if asked_again_is_at_work:
            queue.take()
        queue.line_lost()
        assert queue.replies == 0


def test_a_request_goes_to_the_next_worker_until_too_many_died_of_it() -> None:
    queue = at_work(FIRST, SECOND)
    for _ in range(MOST_DEATHS - 1):
        assert queue.died() is None
        taken = queue.take()
        assert taken is not None
        assert taken.identity == "one"
    given_up = queue.died()
    assert given_up is not None
    assert given_up.deaths == MOST_DEATHS
    assert queue.take() == SECOND


def test_a_worker_that_the_daemon_ended_is_not_counted() -> None:
    queue = at_work(FIRST)
    for _ in range(MOST_DEATHS + 1):
        assert queue.died(killed=True) is None
        assert queue.take() == FIRST


def test_asking_again_does_not_forget_the_dead() -> None:
    queue = at_work(FIRST)
    queue.died()
    queue.arrive(replace(FIRST, message=3))
    taken = queue.take()
    assert taken is not None
    assert taken.deaths == 1


def test_a_stopped_study_leaves_nothing_and_others_go_on() -> None:
    queue = sending(FIRST, SECOND)
    queue.arrive(replace(FIRST, identity="three", round=2, message=3))
    third = queue.waiting["three"]
    assert queue.stop("small") == Stopped(worker=False, connection=True, forgotten=(third,))
    queue.line_lost()
    assert queue.take() == SECOND
    assert queue.send() is None
    assert queue.stop("large") == Stopped(worker=True, connection=False, forgotten=(SECOND,))
    assert queue.died() is None
    assert (queue.waiting, queue.outbox) == ({}, {})


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
    queue = at_work(FIRST, SECOND)
    queue.silence(study)
    queue.silence(study)
    queue.speak(study)
    assert queue.answered(1, "ok", b"reply") is None
    assert queue.take() == SECOND
    assert queue.answered(2, "ok", b"reply") is not None
    queue.speak(study)
    queue.arrive(FIRST)
    queue.take()
    assert queue.answered(1, "ok", b"reply") is not None


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
    queue, message = RequestQueue(), 0
    for step, name in steps:
        if step == "arrive":
            message += 1
            queue.arrive(QueuedRequest(name, name, name * 8, 1, "train", message, b"request"))
        elif step == "answer" and queue.working:
            queue.answered(queue.working.message, "ok", b"reply")
        elif step == "stop":
            queue.stop(name)
            assert name not in queue.waiting
            assert name not in queue.outbox
        else:
            {"take": queue.take, "die": queue.died, "send": queue.send, "push": queue.pushed}.get(
                step, queue.line_lost
            )()
        working = {queue.working.identity} if queue.working else set()
        assert not queue.waiting.keys() & queue.outbox.keys()
        assert not working & (queue.waiting.keys() | queue.outbox.keys())
