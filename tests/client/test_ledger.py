"""The ledger: spent before used, once for each release, by patient and not by folder."""

from __future__ import annotations

import math
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from client.approvals import Approvals
from client.ledger import Charge, Ledger, Limits, Part
from client.store import Store
from common.accounting import ORDERS, SampledGaussian, renyi, renyi_epsilon
from common.errors import Refusal, RefusalCode
from common.files import canonical_json, sha256
from common.messages import HASH_OF_NOTHING, AuditHead, LedgerHead, Reply, reply_to_bytes
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.privacy import PatientMechanism
from common.randomness import StudyKey
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    plan_for,
    proposal,
)
from tests.common.studies import exit_code, small_study

AMPLE = Limits(epsilon_per_study=8.0, epsilon_total=100.0, delta=1e-5)
OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    known_key=False,
    numerics=record(1, EngineChoice()),
)
FREE: dict[str, Any] = {"privacy": {"mode": "none"}}


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
        self.store = Store(path)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    def enrol(
        self, plan: Plan, train: str = "", validation: str = "", *, limits: Limits = AMPLE
    ) -> Plan:
        """Approve a plan for patients who are called by one letter each."""
        with self.store.transaction():
            Approvals(self.store).add(plan, "cohort", StudyKey(bytes(32)))
            self.ledger.enrol(plan.hash, {"train": tuple(train), "validation": tuple(validation)})
            self.ledger.refuse_unaffordable(plan, limits)
        return plan

    def spend(self, plan: Plan, rounds: int = 3, part: Part = "train") -> None:
        for number in range(1, rounds + 1):
            self.ledger.reserve(charge(plan, number, part), plan, AMPLE)

    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.path)


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
    books.enrol(plan, "ab", "c")
    for _ in range(3):
        books.ledger.reserve(charge(plan), plan, AMPLE)
        books.reopen()
    assert [row["state"] for row in books.ledger.charges()] == ["reserved"]
    assert books.ledger.last_round(plan.hash, "train") == 1
    assert books.ledger.last_round(plan.hash, "validation") == 0


def test_the_same_round_with_other_arrays_is_a_conflict(books: Books, plan: Plan) -> None:
    books.enrol(plan, "ab", "c")
    books.ledger.reserve(charge(plan), plan, AMPLE)
    other = charge(plan, arrays="b")
    assert refusal(books.ledger.reserve, other, plan, AMPLE) is RefusalCode.ROUND_CONFLICT
    assert len(books.ledger.charges()) == 1


def test_a_commitment_says_that_the_release_was_made(books: Books, plan: Plan) -> None:
    books.enrol(plan, "ab", "c")
    books.ledger.reserve(charge(plan), plan, AMPLE)
    assert not books.ledger.is_committed(charge(plan).identity)
    with books.store.transaction():
        books.ledger.commit(charge(plan).identity)
    assert books.ledger.is_committed(charge(plan).identity)
    assert not books.ledger.is_committed(charge(plan, 2).identity)


def test_the_head_is_a_chain_over_public_values_alone(books: Books, plan: Plan) -> None:
    """By hand, from nothing: hash, plan, round, part, identity of the request."""
    books.enrol(plan, "ab", "c")
    assert books.ledger.head() == LedgerHead(0, HASH_OF_NOTHING)
    chained = HASH_OF_NOTHING
    for length, each in enumerate(
        (charge(plan), charge(plan, 2), charge(plan, 3, "validation")), 1
    ):
        books.ledger.reserve(each, plan, AMPLE)
        chained = sha256(
            canonical_json([chained, each.plan_hash, each.round, each.part, each.identity])
        )
        assert books.ledger.head() == LedgerHead(length, chained)


def test_the_head_does_not_depend_on_who_or_how_many_stand_in_the_plan(
    tmp_path: Path, plan: Plan
) -> None:
    heads = set()
    for patients in ("ab", "abcdefgh"):
        books = Books(tmp_path / patients)
        books.enrol(plan, patients)
        books.spend(plan)
        with books.store.transaction():
            books.ledger.commit(charge(plan).identity)
        heads.add(books.ledger.head())
    assert len(heads) == 1


def test_every_head_that_was_sent_is_known_and_no_other(books: Books, plan: Plan) -> None:
    books.enrol(plan, "ab", "c")
    sent = [books.ledger.head()]
    for number in (1, 2):
        books.ledger.reserve(charge(plan, number), plan, AMPLE)
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
    books.enrol(plan, "ab", "c")
    books.ledger.reserve(charge(plan), plan, AMPLE)
    books.store.close()
    shutil.copy(books.path, tmp_path / "backup.sqlite")
    books.reopen()
    books.ledger.reserve(charge(plan, 2), plan, AMPLE)
    newest = books.ledger.head()
    books.store.close()
    shutil.copy(tmp_path / "backup.sqlite", books.path)
    books.store = Store(books.path)
    assert refusal(books.ledger.require, newest) is RefusalCode.LEDGER_BEHIND


@pytest.mark.parametrize(
    ("change", "limits"),
    [
        ({}, Limits(7.9, 100.0, 1e-5)),
        ({"count": 7}, AMPLE),
        ({"noise_multiplier": 5.0}, AMPLE),
        ({"sampling_rate": 0.2}, AMPLE),
        (None, AMPLE),
    ],
    ids=["policy", "more steps", "other noise", "other sampling", "no mechanism"],
)
def test_nothing_beyond_the_plan_or_the_policy_for_one_study_is_charged(
    books: Books, plan: Plan, change: dict[str, float] | None, limits: Limits
) -> None:
    """Six steps are foreseen; each round takes two."""
    books.enrol(plan, "ab", "c")
    event = None if change is None else event_of(plan).model_copy(update=change)
    other = Charge(plan.hash, 1, "train", "00" * 32, event)
    assert refusal(books.ledger.reserve, other, plan, limits) is RefusalCode.BUDGET
    assert books.ledger.charges() == []


def test_a_study_ends_with_the_steps_that_were_foreseen(books: Books, plan: Plan) -> None:
    books.enrol(plan, "ab", "c")
    books.spend(plan, rounds=3)
    assert refusal(books.ledger.reserve, charge(plan, 4), plan, AMPLE) is RefusalCode.BUDGET
    books.ledger.reserve(charge(plan, 3, "validation"), plan, AMPLE)
    late = charge(plan, 2, "validation")
    assert refusal(books.ledger.reserve, late, plan, AMPLE) is RefusalCode.BUDGET


def test_one_study_alone_is_judged_by_the_tight_figure_of_its_plan(
    books: Books, plan: Plan
) -> None:
    """The Renyi bound for it is above 8, the privacy loss distribution's below."""
    limits = Limits(8.0, 8.0, 1e-5)
    loose = renyi_epsilon(3 * renyi(event_of(plan)), 1e-5)
    assert mechanism_of(plan).epsilon < 8.0 < loose
    books.enrol(plan, "ab", "c", limits=limits)
    for number in (1, 2, 3):
        books.ledger.reserve(charge(plan, number), plan, limits)
    assert books.ledger.spent(plan.hash, 1e-5) == pytest.approx(loose)


def test_a_study_that_was_approved_and_never_run_costs_the_next_one_nothing(
    books: Books, plan: Plan
) -> None:
    limits = Limits(8.0, 8.0, 1e-5)
    books.enrol(plan_titled("never run"), "ab", "c", limits=limits)
    books.enrol(plan, "ab", "c", limits=limits)
    for number in (1, 2, 3):
        books.ledger.reserve(charge(plan, number), plan, limits)


def test_studies_add_up_for_the_patients_they_share(books: Books, plan: Plan) -> None:
    other = plan_titled("second")
    books.enrol(plan, "abc")
    books.enrol(other, "cde")
    books.spend(plan)
    single = renyi_epsilon(3 * renyi(event_of(plan)), 1e-5)
    double = renyi_epsilon(6 * renyi(event_of(plan)), 1e-5)
    assert books.ledger.spent(other.hash, 1e-5) == pytest.approx(single)
    books.spend(other)
    assert books.ledger.spent(plan.hash, 1e-5) == pytest.approx(double)
    books.enrol(plan_titled("third"), "xyz")
    assert books.ledger.spent(plan_titled("third").hash, 1e-5) == 0.0


def test_what_would_pass_the_total_is_refused_at_approval_and_leaves_no_trace(
    books: Books, plan: Plan
) -> None:
    limits = Limits(8.0, 10.0, 1e-5)
    books.enrol(plan, "abc", limits=limits)
    books.spend(plan)
    other = plan_titled("second")
    assert refusal(books.enrol, other, "cde", limits=limits) is RefusalCode.BUDGET
    assert Approvals(books.store).find(other.hash) is None
    assert books.store.execute("SELECT count(*) FROM members").fetchone()[0] == 3
    books.enrol(other, "de", limits=limits)


def test_what_would_pass_the_total_is_refused_at_its_round(books: Books, plan: Plan) -> None:
    """Two studies that were each affordable at approval, and together are not."""
    limits = Limits(8.0, 10.0, 1e-5)
    other = plan_titled("second")
    books.enrol(plan, "abc", limits=limits)
    books.enrol(other, "cde", limits=limits)
    books.spend(plan)
    done = 0
    with pytest.raises(Refusal) as caught:
        for number in (1, 2, 3):
            books.ledger.reserve(charge(other, number), other, limits)
            done = number
    assert caught.value.code is RefusalCode.BUDGET
    assert done < 3
    assert books.ledger.spent(other.hash, 1e-5) <= 10.0
    assert len(books.ledger.charges()) == 3 + done


def test_a_plan_dearer_than_the_policy_allows_for_one_study_is_refused(
    books: Books, plan: Plan
) -> None:
    code = refusal(books.enrol, plan, "abc", limits=Limits(7.9, 100.0, 1e-5))
    assert code is RefusalCode.POLICY


def test_training_and_validation_patients_pay_apart(books: Books, plan: Plan) -> None:
    books.enrol(plan, "ab", "cd")
    books.spend(plan)
    trained = renyi_epsilon(3 * renyi(event_of(plan)), 1e-5)
    assert books.ledger.spent(plan.hash, 1e-5) == pytest.approx(trained)
    books.ledger.reserve(charge(plan, 3, "validation"), plan, AMPLE)
    assert books.ledger.spent(plan.hash, 1e-5) == pytest.approx(trained)
    only = books.enrol(plan_titled("validates c"), "", "c")
    evaluated = renyi_epsilon(renyi(event_of(plan, "validation")), 1e-5)
    assert books.ledger.spent(only.hash, 1e-5) == pytest.approx(evaluated)


def test_a_patient_pays_for_training_in_one_study_and_validation_in_another(
    books: Books, plan: Plan
) -> None:
    other = plan_titled("second")
    books.enrol(plan, "a", "b")
    books.enrol(other, "b", "a")
    books.spend(plan)
    books.ledger.reserve(charge(other, 3, "validation"), other, AMPLE)
    both = 3 * renyi(event_of(plan)) + renyi(event_of(other, "validation"))
    assert books.ledger.spent(plan.hash, 1e-5) == pytest.approx(renyi_epsilon(both, 1e-5))


def test_what_an_event_costs_is_computed_at_the_approval_and_survives_a_restart(
    books: Books, plan: Plan
) -> None:
    """Each round reads what was stored: nothing is composed or computed anew."""
    books.enrol(plan, "ab", "c")
    stored = books.store.execute("SELECT noise_multiplier, divergences FROM costs").fetchall()
    kept = {row["noise_multiplier"]: np.frombuffer(row["divergences"]) for row in stored}
    mechanism = mechanism_of(plan)
    assert mechanism.evaluation is not None
    assert kept.keys() == {
        mechanism.step.noise_multiplier,
        mechanism.evaluation.noise_multiplier,
    }
    for event in (mechanism.step, mechanism.evaluation):
        assert np.array_equal(kept[event.noise_multiplier], renyi(event))
    books.store.execute("UPDATE costs SET divergences = ?", np.ones(len(ORDERS)).tobytes())
    books.reopen()
    books.spend(plan, rounds=1)
    assert books.ledger.spent(plan.hash, 1e-5) == renyi_epsilon(2 * np.ones(len(ORDERS)), 1e-5)


def test_a_study_without_privacy_makes_the_account_infinite(books: Books, plan: Plan) -> None:
    free = plan_titled("free", **FREE)
    books.enrol(free, "ab")
    assert books.ledger.spent(free.hash, 1e-5) == 0.0
    books.ledger.reserve(Charge(free.hash, 1, "train", "00" * 32, None), free, AMPLE)
    assert math.isinf(books.ledger.spent(free.hash, 1e-5))
    assert refusal(books.enrol, plan, "bc") is RefusalCode.BUDGET
    books.enrol(plan, "cd")


def test_renamed_copied_and_relabelled_folders_and_other_data_sets_share_one_account(
    tmp_path: Path,
) -> None:
    """The second study sees the same patients under another data set's name, in copied files."""
    names = {"chest-xray": "first", "lungs": "second"}
    hospital = Hospital(
        tmp_path,
        {f"P{number:02}": 1 for number in range(12)},
        datasets=names,
        policy={"max_epsilon_total": 10.0},
    )
    labels = tmp_path / "second" / "labels.csv"
    swapped = labels.read_text().replace("normal", "x").replace("pneumonia", "normal")
    labels.write_text(swapped.replace("x", "pneumonia"))
    for number, file in enumerate(sorted((tmp_path / "second" / "images").iterdir())):
        file.rename(file.with_name(f"renamed {number}"))
    with hospital.open() as site:
        plan = approved(site, small_study())
        for number in (1, 2, 3):
            assert code_of(site, asking(plan, number, ledger=site.ledger.head())) == "ok"
        again = small_study(study={"name": "again"}, data={"dataset": "lungs"})
        assert code_of(site, proposal(plan_for(site, again))) == "policy"
        assert len(site.ledger.charges()) == 3


def released(reply: Reply) -> bytes:
    return reply_to_bytes(replace(reply, audit=AuditHead(), signature=b""))


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


PLANS = [plan_titled(title) for title in ("one", "two", "three")]
PATIENTS = ["ab", "bc", "d"]
TIGHT = Limits(8.0, 10.0, 1e-5)


class Ledgers(RuleBasedStateMachine):
    """Any requests in any order, with restarts: each charged once, no patient beyond the total."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.books = Books(Path(self.folder.name) / "site.sqlite")
        for plan, patients in zip(PLANS, PATIENTS, strict=True):
            self.books.enrol(plan, patients, limits=TIGHT)
        self.made: dict[tuple[int, int], str] = {}

    def divergences(self, patient: str) -> Any:  # noqa: ANN401 - an array of floats
        rounds = sum(patient in PATIENTS[which] for which, _ in self.made)
        return rounds * renyi(event_of(PLANS[0]))

    @rule(which=st.integers(0, 2), number=st.integers(1, 4), arrays=st.sampled_from("ab"))
    def reserve(self, which: int, number: int, arrays: str) -> None:
        asked = charge(PLANS[which], number, arrays=arrays)
        before, passes = self.books.ledger.head(), self.would_pass(which)
        try:
            self.books.ledger.reserve(asked, PLANS[which], TIGHT)
        except Refusal as refused:
            assert self.books.ledger.head() == before
            if refused.code is RefusalCode.ROUND_CONFLICT:
                assert self.made[which, number] != arrays
            else:
                assert refused.code is RefusalCode.BUDGET
                assert (which, number) not in self.made
                assert passes
        else:
            new = (which, number) not in self.made
            assert not (new and passes)
            assert self.books.ledger.head().length == before.length + new
            assert self.made.setdefault((which, number), arrays) == arrays

    def would_pass(self, which: int) -> bool:
        """Beyond the plan's three rounds, or beyond the total for someone who stands in it."""
        if sum(plan == which for plan, _ in self.made) == 3:
            return True
        return any(
            not self.alone(patient, which) and self.spent(patient, 1) > TIGHT.epsilon_total
            for patient in PATIENTS[which]
        )

    def alone(self, patient: str, which: int) -> bool:
        """Whether nothing but one plan was released about a patient: its own figure holds."""
        return all(plan == which or patient not in PATIENTS[plan] for plan, _ in self.made)

    def spent(self, patient: str, more: int = 0) -> float:
        return TIGHT.spent(self.divergences(patient) + more * renyi(event_of(PLANS[0])))

    @rule(which=st.integers(0, 2), number=st.integers(1, 4))
    def commit(self, which: int, number: int) -> None:
        arrays = self.made.get((which, number), "a")
        self.books.ledger.commit(charge(PLANS[which], number, arrays=arrays).identity)

    @invariant()
    def nobody_is_beyond_the_total_and_everything_is_written_down(self) -> None:
        assert len(self.books.ledger.charges()) == len(self.made)
        for patient in "abcd":
            alone = any(self.alone(patient, which) for which in range(3))
            assert alone or self.spent(patient) <= TIGHT.epsilon_total

    @rule()
    def restart(self) -> None:
        self.books.reopen()

    def teardown(self) -> None:
        self.books.store.close()
        self.folder.cleanup()


Ledgers.TestCase.settings = settings(max_examples=25, stateful_step_count=15)
TestLedgers = Ledgers.TestCase
