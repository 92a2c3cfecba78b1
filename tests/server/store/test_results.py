"""What became of the studies: the last word counts, and history stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.errors import CoordinatorError
from common.wire.messages import NO_SEAL, SEAL_DIGITS, LedgerHead
from server.store import CoordinatorStore
from server.store.rows import ApprovalState
from tests.server.store.conftest import card

PLAN = "ab" * 32


def seal(number: int) -> str:
    return f"{number:0{SEAL_DIGITS}}"


@pytest.fixture
def ready(store: CoordinatorStore) -> CoordinatorStore:
    for number, name in enumerate(("south", "north")):
        store.admit(card(name, number))
    store.add_study("cxr", "", 1, ["north", "south"])
    store.add_study("other", "", 1, ["north"])
    return store


def test_the_last_word_of_a_site_counts(ready: CoordinatorStore) -> None:
    ready.put_approval("cxr", "south", PLAN, ApprovalState.APPROVED)
    ready.put_approval("cxr", "north", PLAN, "pending")
    ready.put_approval("cxr", "north", PLAN, "refused", "its policy forbids it")
    ready.put_approval("cxr", "north", "cd" * 32, "approved")

    said = [(each.site, each.plan_hash, each.state, each.why) for each in ready.approvals("cxr")]
    assert said == [
        ("north", PLAN, ApprovalState.REFUSED, "its policy forbids it"),
        ("north", "cd" * 32, ApprovalState.APPROVED, ""),
        ("south", PLAN, ApprovalState.APPROVED, ""),
    ]
    assert ready.approvals("other") == ()


def test_rounds_are_kept_in_order_and_once(ready: CoordinatorStore) -> None:
    absences = {"south": "did not answer"}
    ready.put_round("cxr", 2, "evaluate", sites=["north"], absences=absences, seconds=0.5)
    ready.put_round("cxr", 2, "train", sites=["north"], absences={}, seconds=9)
    ready.put_round("cxr", 1, "train", sites=["north", "south"], absences={}, seconds=1.5)
    ready.put_round("cxr", 2, "train", sites=["north"], absences=absences, seconds=2.5)

    rounds = ready.rounds("cxr")
    assert [(each.number, each.purpose) for each in rounds] == [
        (1, "train"),
        (2, "train"),
        (2, "evaluate"),
    ]
    assert (rounds[0].sites, rounds[0].absences) == (("north", "south"), {})
    assert (rounds[1].absences, rounds[1].seconds) == (absences, 2.5)


def test_figures_come_back_as_they_were(ready: CoordinatorStore) -> None:
    figures = {"auc": 0.1 + 0.2, "interval": [0.5, None], "classes": {"ill": 1}}
    ready.put_metrics("cxr", 3, {})
    ready.put_metrics("cxr", 3, figures)
    ready.put_metrics("cxr", 0, {})

    assert [(each.round, each.figures) for each in ready.metrics("cxr")] == [(0, {}), (3, figures)]


def test_receipts_stay_and_the_longest_is_the_newest(ready: CoordinatorStore) -> None:
    for study, site, length in (("cxr", "north", 5), ("other", "north", 7), ("cxr", "north", 6)):
        signature = bytes([0, length])
        ready.put_receipt(study, site, LedgerHead(length - 1, "aa" * 32), seal(length), signature)

    assert [each.seal for each in ready.receipts("north")] == [seal(5), seal(7), seal(6)]
    newest = ready.newest_receipt("north")
    assert newest is not None
    assert (newest.site, newest.study, newest.signature) == ("north", "other", b"\x00\x07")
    assert newest.ledger == LedgerHead(6, "aa" * 32)
    assert newest.seal == seal(7)


def test_what_came_later_with_a_shorter_ledger_is_not_newer(ready: CoordinatorStore) -> None:
    for charges, number in ((3, 9), (3, 12), (1, 40)):
        ledger = LedgerHead(charges, "aa" * 32)
        ready.put_receipt("cxr", "north", ledger, seal(number), bytes(64))
    newest = ready.newest_receipt("north")
    assert newest is not None
    assert (newest.ledger.length, newest.seal) == (3, seal(12))


def test_a_site_that_made_new_keys_is_held_to_nothing_that_it_never_sent(
    ready: CoordinatorStore,
) -> None:
    ready.put_receipt("cxr", "north", LedgerHead(9, "aa" * 32), seal(9), bytes(64))
    ready.suspend("north")
    ready.admit(card("north", 7))
    assert ready.newest_receipt("north") is None
    ready.put_receipt("cxr", "north", LedgerHead(1, "aa" * 32), seal(1), bytes(64))
    newest = ready.newest_receipt("north")
    assert newest is not None
    assert newest.seal == seal(1)


def test_nothing_is_kept_of_what_is_not_there(ready: CoordinatorStore) -> None:
    writes: tuple[Callable[[], None], ...] = (
        lambda: ready.put_approval("none", "north", PLAN, "pending"),
        lambda: ready.put_approval("cxr", "west", PLAN, "pending"),
        lambda: ready.put_round("none", 1, "train", sites=[], absences={}, seconds=0),
        lambda: ready.put_metrics("none", 1, {}),
        lambda: ready.put_receipt("none", "north", LedgerHead(), NO_SEAL, b""),
    )
    for write in writes:
        with pytest.raises(CoordinatorError, match="store cannot be used"):
            write()
    assert (ready.rounds("none"), ready.metrics("none"), ready.newest_receipt("north")) == (
        (),
        (),
        None,
    )
