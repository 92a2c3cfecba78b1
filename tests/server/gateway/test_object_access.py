"""Whose objects: by hand."""

from __future__ import annotations

import pytest

from server.gateway.object_access import MOST_REPLIES, REPLY_SECONDS, REQUEST_SECONDS, ObjectAccess


def test_a_node_fetches_what_was_handed_to_it_until_it_has_confirmed() -> None:
    access = ObjectAccess()
    access.handed_out(1, "m", ["a", "b"], now=0)
    assert access.may_fetch(1, "a", now=1)
    assert not access.may_fetch(2, "a", now=1)
    assert not access.may_fetch(1, "c", now=1)
    assert access.may_confirm(1, "m")
    assert not access.may_confirm(2, "m")
    access.confirmed(1, "m")
    assert not access.may_fetch(1, "a", now=1)


def test_a_request_that_is_not_used_is_forgotten() -> None:
    access = ObjectAccess()
    access.handed_out(1, "old", ["a"], now=0)
    access.handed_out(1, "used", ["b"], now=0)
    assert access.may_fetch(1, "b", now=REQUEST_SECONDS)
    access.handed_out(1, "new", ["c"], now=REQUEST_SECONDS + 1)
    assert not access.may_confirm(1, "old")
    assert access.may_confirm(1, "used")


def test_the_last_object_completes_a_reply() -> None:
    access = ObjectAccess()
    assert access.announced(1, "s", "request", ["a", "b"], now=0)
    assert not access.may_push(2, "s", "a", 10, most=100)
    assert not access.may_push(1, "other", "a", 10, most=100)
    assert access.may_push(1, "s", "a", 10, most=100)
    assert access.pushed_object(1, "s", "a", now=1) is None
    assert not access.may_push(1, "s", "a", 10, most=100)
    assert access.may_push(1, "s", "b", 10, most=100)
    assert access.pushed_object(1, "s", "b", now=1) == "request"
    assert not access.may_push(1, "s", "b", 10, most=100)


def test_a_reply_stays_below_its_size() -> None:
    access = ObjectAccess()
    access.announced(1, "s", "request", ["a", "b"], now=0)
    assert access.may_push(1, "s", "a", 60, most=100)
    with pytest.raises(OverflowError):
        access.may_push(1, "s", "b", 60, most=100)


def test_a_node_brings_a_few_replies_at_once_and_old_ones_expire() -> None:
    access = ObjectAccess()
    for number in range(MOST_REPLIES):
        assert access.announced(1, str(number), "r", ["a"], now=0)
    assert not access.announced(1, "more", "r", ["a"], now=1)
    assert access.announced(2, "more", "r", ["a"], now=1)
    assert access.announced(1, "more", "r", ["a"], now=REPLY_SECONDS + 1)


def test_a_node_that_connects_anew_has_no_request_and_goes_on_bringing_its_reply() -> None:
    access = ObjectAccess()
    access.handed_out(1, "m", ["a"], now=0)
    access.announced(1, "s", "r", ["b"], now=0)
    access.begin(1)
    assert not access.may_fetch(1, "a", now=0)
    assert access.may_push(1, "s", "b", 1, most=100)
    assert access.pushed_object(1, "s", "b", now=1) == "r"


def test_what_a_killed_node_was_bringing_does_not_keep_it_from_announcing() -> None:
    access = ObjectAccess()
    for number in range(MOST_REPLIES):
        assert access.announced(1, str(number), "r", ["a"], now=0)
    access.begin(1)
    for number in range(MOST_REPLIES):
        assert access.announced(1, f"anew {number}", "r", ["a"], now=1)
    assert not access.announced(1, "more", "r", ["a"], now=1)
    assert not access.may_push(1, "0", "a", 1, most=100)
