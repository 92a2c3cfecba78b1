"""The ledger: spent before used, once for each release, and alike whoever is there."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from client.records.accounts import Part
from client.records.approvals import Approvals
from client.records.ledger import Charge, Ledger
from client.records.membership import Draft, FrozenPatient, freeze
from client.records.store import SiteDatabase
from common.errors import Refusal, RefusalCode
from common.files import canonical_json, sha256
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import StudyKey
from common.wire.messages import HASH_OF_NOTHING, NO_SEAL, LedgerHead, Reply, reply_to_bytes
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
)
from tests.common.studies import exit_code, small_study

OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)


def plan_titled(title: str, **sections: dict[str, Any]) -> Plan:
    return write_plan(small_study(study={"title": title}, **sections), OFFER, 106)


def mechanism_of(plan: Plan) -> PatientMechanism:
    assert isinstance(plan.mechanism, PatientMechanism)
    return plan.mechanism


def event_of(plan: Plan, part: Part = "train") -> SampledGaussian:
    """One round of training, two steps; or one evaluation."""
    mechanism = mechanism_of(plan)
    if part == "validation":
        assert mechanism.evaluation is not None
        return mechanism.evaluation
    return mechanism.step.model_copy(update={"count": 2})


def charge(plan: Plan, number: int = 1, part: Part = "train", arrays: str = "a") -> Charge:
    identity = sha256(f"{plan.hash} {number} {part} {arrays}".encode())
    return Charge(plan.hash, number, part, identity, event_of(plan, part))


class Books:
    """A ledger in its store, and who stands in which plan."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = SiteDatabase(path)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    def approve(self, plan: Plan) -> Plan:
        """Approve a plan for nobody in particular."""
        Approvals(self.store).add(plan, StudyKey(bytes(32)))
        return plan

    def spend(self, plan: Plan, rounds: int = 3, part: Part = "train") -> None:
        for number in range(1, rounds + 1):
            self.ledger.reserve(charge(plan, number, part), plan)

    def reopen(self) -> None:
        self.store.close()
        self.store = SiteDatabase(self.path)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    opened = Books(tmp_path / "site.sqlite")
    yield opened
    opened.store.close()


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_titled("first")


def refusal(call: Any, *arguments: Any, **named: Any) -> RefusalCode:  # noqa: ANN401 - any call
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    return caught.value.code


def test_a_charge_is_made_once_however_often_it_is_asked_for(books: Books, plan: Plan) -> None:
    books.approve(plan)
    for _ in range(3):
        books.ledger.reserve(charge(plan), plan)
        books.reopen()
    assert [row["state"] for row in books.ledger.charges()] == ["reserved"]
    assert books.ledger.last_round(plan.hash, "train") == 1
    assert books.ledger.last_round(plan.hash, "validation") == 0


def test_the_same_round_with_other_arrays_is_a_conflict(books: Books, plan: Plan) -> None:
    books.approve(plan)
    books.ledger.reserve(charge(plan), plan)
    other = charge(plan, arrays="b")
    assert refusal(books.ledger.reserve, other, plan) is RefusalCode.ROUND_CONFLICT
    assert len(books.ledger.charges()) == 1


def test_a_commitment_says_that_the_release_was_made(books: Books, plan: Plan) -> None:
    books.approve(plan)
    books.ledger.reserve(charge(plan), plan)
    assert not books.ledger.is_committed(charge(plan).identity)
    with books.store.transaction():
        books.ledger.commit(charge(plan).identity)
    assert books.ledger.is_committed(charge(plan).identity)
    assert not books.ledger.is_committed(charge(plan, 2).identity)


def test_the_head_is_a_chain_over_public_values_alone(books: Books, plan: Plan) -> None:
    """By hand, from nothing: hash, plan, round, part, identity of the request."""
    books.approve(plan)
    assert books.ledger.head() == LedgerHead(0, HASH_OF_NOTHING)
    chained = HASH_OF_NOTHING
    for length, each in enumerate(
        (charge(plan), charge(plan, 2), charge(plan, 3, "validation")), 1
    ):
        books.ledger.reserve(each, plan)
        chained = sha256(
            canonical_json([chained, each.plan_hash, each.round, each.part, each.identity])
        )
        assert books.ledger.head() == LedgerHead(length, chained)


def test_the_head_does_not_depend_on_who_or_how_many_stand_in_the_plan(
    tmp_path: Path, plan: Plan
) -> None:
    heads = set()
    for patients in ("", "ab", "abcdefgh"):
        books = Books(tmp_path / f"of {patients}")
        books.approve(plan)
        drafted = Draft(
            {name: FrozenPatient("train", "") for name in patients}, frozenset(), 0.0, 0.0
        )
        freeze(books.store, plan.hash, drafted, ())
        books.spend(plan)
        with books.store.transaction():
            books.ledger.commit(charge(plan).identity)
        heads.add(books.ledger.head())
    assert len(heads) == 1


def test_every_head_that_was_sent_is_known_and_no_other(books: Books, plan: Plan) -> None:
    books.approve(plan)
    sent = [books.ledger.head()]
    for number in (1, 2):
        books.ledger.reserve(charge(plan, number), plan)
        sent.append(books.ledger.head())
    for head in sent:
        books.ledger.require(head)
    for head in (
        LedgerHead(3, sent[2].hash),
        LedgerHead(1, sent[2].hash),
        LedgerHead(0, "00" * 32),
    ):
        assert refusal(books.ledger.require, head) is RefusalCode.LEDGER_BEHIND


def test_an_old_store_brought_back_is_behind(books: Books, plan: Plan, tmp_path: Path) -> None:
    books.approve(plan)
    books.ledger.reserve(charge(plan), plan)
    books.store.close()
    shutil.copy(books.path, tmp_path / "backup.sqlite")
    books.reopen()
    books.ledger.reserve(charge(plan, 2), plan)
    newest = books.ledger.head()
    books.store.close()
    shutil.copy(tmp_path / "backup.sqlite", books.path)
    books.store = SiteDatabase(books.path)
    assert refusal(books.ledger.require, newest) is RefusalCode.LEDGER_BEHIND


@pytest.mark.parametrize(
    "change",
    [{"count": 7}, {"noise_multiplier": 5.0}, {"sampling_rate": 0.2}, None],
    ids=["more steps", "other noise", "other sampling", "no mechanism"],
)
def test_nothing_beyond_the_plan_is_charged(
    books: Books, plan: Plan, change: dict[str, float] | None
) -> None:
    """Six steps are foreseen; each round takes two."""
    books.approve(plan)
    event = None if change is None else event_of(plan).model_copy(update=change)
    other = Charge(plan.hash, 1, "train", "00" * 32, event)
    assert refusal(books.ledger.reserve, other, plan) is RefusalCode.ROUND_OUT_OF_ORDER
    assert books.ledger.charges() == []


def test_a_study_ends_with_the_steps_that_were_foreseen(books: Books, plan: Plan) -> None:
    books.approve(plan)
    books.spend(plan, rounds=3)
    beyond = RefusalCode.ROUND_OUT_OF_ORDER
    assert refusal(books.ledger.reserve, charge(plan, 4), plan) is beyond
    books.ledger.reserve(charge(plan, 3, "validation"), plan)
    late = charge(plan, 2, "validation")
    assert refusal(books.ledger.reserve, late, plan) is beyond


def test_a_study_without_privacy_ends_with_the_rounds_that_were_foreseen(books: Books) -> None:
    """Each round counts as one, of three; the last is charged and no other."""
    free = books.approve(plan_titled("free", privacy={"mode": "none"}))

    def unbounded(number: int, part: Part) -> Charge:
        identity = sha256(f"{number} {part}".encode())
        return Charge(free.hash, number, part, identity, None)

    for number in (1, 2, 3):
        books.ledger.reserve(unbounded(number, "train"), free)
    books.ledger.reserve(unbounded(3, "validation"), free)
    beyond = RefusalCode.ROUND_OUT_OF_ORDER
    assert refusal(books.ledger.reserve, unbounded(4, "train"), free) is beyond
    assert refusal(books.ledger.reserve, unbounded(2, "validation"), free) is beyond
    assert len(books.ledger.charges()) == 4


def released(reply: Reply) -> bytes:
    return reply_to_bytes(replace(reply, seal=NO_SEAL, signature=b""))


def test_a_kill_after_the_reservation_leaves_it_spent_and_the_retry_is_the_same_release(
    tmp_path: Path,
) -> None:
    """kill -9 between reservation and training, then in training: one charge, the same release.

    The audit log's head beside it says when and how often it was asked for.
    """
    undisturbed, killed = Hospital(tmp_path / "a"), Hospital(tmp_path / "b")
    with undisturbed.open() as site:
        request = asking(approved(site, small_study()))
        expected = released(answered(site, request))
    with killed.open() as site:
        assert approved(site, small_study()).hash == request.plan_hash

    def ask() -> bytes:
        with killed.open() as site:
            return released(answered(site, request))

    for point in ("reservation.made:1", "training.step:1"):
        assert exit_code(ask, kill_at=point) == -signal.SIGKILL
        assert [row["state"] for row in killed.rows("charges")] == ["reserved"]
        assert killed.rows("replies") == []
    assert exit_code(ask, kill_at="reply.stored:1") == -signal.SIGKILL
    assert [row["state"] for row in killed.rows("charges")] == ["committed"]
    assert ask() == expected
    assert len(killed.rows("charges")) == 1


@cache
def plans() -> list[Plan]:
    return [plan_titled(title) for title in ("one", "two", "three")]


class Ledgers(RuleBasedStateMachine):
    """Any requests in any order, with restarts: each is charged once, and none beyond its plan."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.books = Books(Path(self.folder.name) / "site.sqlite")
        for plan in plans():
            self.books.approve(plan)
        self.made: dict[tuple[int, int], str] = {}

    @rule(which=st.integers(0, 2), number=st.integers(1, 4), arrays=st.sampled_from("ab"))
    def reserve(self, which: int, number: int, arrays: str) -> None:
        asked = charge(plans()[which], number, arrays=arrays)
        before, new = self.books.ledger.head(), (which, number) not in self.made
        passes = new and sum(plan == which for plan, _ in self.made) == 3
        try:
            self.books.ledger.reserve(asked, plans()[which])
        except Refusal as refused:
            assert self.books.ledger.head() == before
            if refused.code is RefusalCode.ROUND_CONFLICT:
                assert self.made[which, number] != arrays
            else:
                assert refused.code is RefusalCode.ROUND_OUT_OF_ORDER
                assert passes
        else:
            assert not passes
            assert self.books.ledger.head().length == before.length + new
            assert self.made.setdefault((which, number), arrays) == arrays

    @rule(which=st.integers(0, 2), number=st.integers(1, 4))
    def commit(self, which: int, number: int) -> None:
        arrays = self.made.get((which, number), "a")
        self.books.ledger.commit(charge(plans()[which], number, arrays=arrays).identity)

    @invariant()
    def everything_is_written_down(self) -> None:
        assert len(self.books.ledger.charges()) == len(self.made)

    @rule()
    def restart(self) -> None:
        self.books.reopen()

    def teardown(self) -> None:
        self.books.store.close()
        self.folder.cleanup()


Ledgers.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestLedgers = Ledgers.TestCase
