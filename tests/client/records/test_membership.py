"""Membership: each patient's place follows from that patient alone, and nobody passes the total."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from client.records import membership
from client.records.accounts import Accounts, Part, PrivacyLimits, event_of, join, stated
from client.records.approvals import Approvals
from client.records.figures import is_single
from client.records.ledger import Charge, Ledger
from client.records.membership import (
    CHANGED,
    GONE,
    MOVED,
    OPTED_OUT,
    UNPAID,
    Draft,
    FrozenPatient,
    depart,
    departures,
    draft,
    forget,
    freeze,
    is_known,
    leavers,
    overdrawn,
    take_out,
)
from client.records.store import SiteDatabase
from common.files import sha256
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.privacy.accounting import ORDERS, renyi, renyi_epsilon
from common.privacy.cap import composed
from common.privacy.randomness import StudyKey
from tests.common.studies import small_study

OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)
AMPLE, TIGHT = PrivacyLimits(8.0, 100.0, 1e-5), PrivacyLimits(8.0, 10.0, 1e-5)


def plan_titled(title: str, **sections: Any) -> Plan:  # noqa: ANN401 - sections of a study
    return write_plan(small_study(study={"title": title}, **sections), OFFER, 106)


@cache
def dear() -> Plan:
    """Three rounds of two steps each, as in the two others."""
    return plan_titled("dear")


@cache
def cheap() -> Plan:
    return plan_titled("cheap", privacy={"epsilon": 3.0})


@cache
def other() -> Plan:
    return plan_titled("other", privacy={"epsilon": 5.0}, evaluation={"rounds": [1, 2, 3]})


PLANS = (dear, cheap, other)
"""Made when a test wants them: the noise of each takes seconds to calibrate."""


def stands(patients: str, part: Part = "train") -> dict[str, FrozenPatient]:
    """Patients of one letter each, all in one part."""
    return {patient: FrozenPatient(part, patient) for patient in patients}


class Books:
    """A site's store, and plans that are approved, frozen and charged in it."""

    def __init__(self, path: Path, limits: PrivacyLimits = TIGHT) -> None:
        self.path, self.limits = path, limits
        self.store = SiteDatabase(path)

    @property
    def approvals(self) -> Approvals:
        return Approvals(self.store)

    def draft(self, plan: Plan, today: Mapping[str, FrozenPatient]) -> Draft:
        running = [each.plan for each in self.approvals.running()]
        return draft(Accounts(self.store, running), plan, today, self.limits)

    def approve(self, plan: Plan, today: Mapping[str, FrozenPatient]) -> str:
        """Approve a plan and freeze it; who is in it."""
        with self.store.transaction():
            self.approvals.add(plan, StudyKey(bytes(32)))
            drafted = self.draft(plan, today)
            freeze(self.store, plan.hash, drafted, ())
            self.approvals.freeze(plan.hash, len(drafted.left_out), "")
        return "".join(sorted(drafted.places))

    def charge(self, plan: Plan, number: int, part: Part = "train") -> None:
        identity = sha256(f"{plan.hash} {number} {part}".encode())
        event = event_of(plan, part)
        Ledger(self.store).reserve(Charge(plan.hash, number, part, identity, event), plan)

    def run(self, plan: Plan, rounds: int = 3) -> None:
        for number in range(1, rounds + 1):
            self.charge(plan, number)

    def paid(self, patient: str) -> Any:  # noqa: ANN401 - an array of floats
        accounts = Accounts(self.store)
        return accounts.paid(accounts.history(patient))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    opened = Books(tmp_path / "site.sqlite")
    yield opened
    opened.store.close()


def whole(plan: Plan) -> Any:  # noqa: ANN401 - an array of floats
    event = event_of(plan, "train")
    assert event is not None
    return 3 * renyi(event)


def test_who_cannot_pay_is_not_in_and_the_others_are(books: Books) -> None:
    assert books.approve(dear(), stands("abc")) == "abc"
    books.run(dear())
    assert TIGHT.spent(whole(dear()) + whole(other())) > 10.0
    assert books.approve(other(), stands("bcdef")) == "def"
    assert [each.left_out for each in books.approvals.all()] == [0, 2]
    assert TIGHT.spent(books.paid("b")) == TIGHT.spent(whole(dear()))


def test_what_another_plan_may_still_take_is_set_aside_until_it_is_over(books: Books) -> None:
    books.approve(dear(), stands("abc"))
    books.run(dear(), 1)
    assert books.draft(other(), stands("abcd")).places.keys() == {"d"}
    books.approvals.end(dear().hash, "stopped", by="somebody")
    assert books.draft(other(), stands("abcd")).places.keys() == set("abcd")


@pytest.mark.parametrize("how", ["closed", "expired", "left"])
def test_the_rest_is_free_when_the_plan_ends_or_the_patient_leaves(books: Books, how: str) -> None:
    books.approve(dear(), stands("ab"))
    assert books.draft(other(), stands("ab")).left_out == {"a", "b"}
    if how == "closed":
        books.approvals.close(dear().hash)
    elif how == "expired":
        books.approvals.add(dear(), StudyKey(bytes(32)), expires="2020-01-01T00:00:00Z")
    else:
        assert depart(books.store, dear().hash, stands("b"), ()) == 1
    assert "a" in books.draft(other(), stands("ab")).places
    assert ("b" in books.draft(other(), stands("ab")).places) == (how != "left")


def test_what_a_plan_has_taken_already_is_a_part_of_its_whole_cost(books: Books) -> None:
    """Approved anew after two of its three rounds, by who took part and by who comes now."""
    books.limits = PrivacyLimits(8.0, 8.0, 1e-5)
    books.approve(dear(), stands("ab"))
    books.run(dear(), 2)
    assert books.approve(dear(), stands("abc")) == "abc"
    books.charge(dear(), 3)
    assert books.paid("a") == pytest.approx(whole(dear()))
    assert books.paid("c") == pytest.approx(whole(dear()) / 3)


def test_one_part_of_one_plan_alone_is_judged_by_the_tight_figure_of_the_plan(
    books: Books,
) -> None:
    """The Renyi bound for it is above 8, the privacy loss distribution's below."""
    books.limits = PrivacyLimits(8.0, 8.0, 1e-5)
    assert stated(dear(), "train") < 8.0 < books.limits.spent(whole(dear()))
    assert books.approve(dear(), stands("ab")) == "ab"
    assert books.draft(dear(), stands("ab")).after == stated(dear(), "train")
    books.charge(dear(), 1)
    assert books.draft(cheap(), stands("ab")).left_out == {"a", "b"}


def test_who_trained_and_evaluates_later_in_the_same_plan_has_paid_both(books: Books) -> None:
    """The split was changed, and the plan approved anew; both parts are composed."""
    books.limits = AMPLE
    books.approve(other(), stands("a") | stands("b", "validation"))
    books.run(other())
    books.approve(other(), stands("ab", "validation"))
    for number in (1, 2, 3):
        books.charge(other(), number, "validation")
    event = event_of(other(), "validation")
    assert event is not None
    both = whole(other()) + 3 * renyi(event)
    assert books.paid("a") == pytest.approx(both)
    assert books.paid("b") == pytest.approx(3 * renyi(event))
    ledger = Ledger(books.store)
    assert ledger.spent_on(other()) == pytest.approx(renyi_epsilon(both, composed(1e-5)))
    assert ledger.spent_on(other()) > other().mechanism.epsilon
    assert ledger.most_spent(AMPLE) == pytest.approx(AMPLE.spent(both))
    assert departures(books.store, other().hash) == {MOVED: 1}


def test_who_would_train_and_then_evaluate_must_be_able_to_pay_both(books: Books) -> None:
    books.limits = PrivacyLimits(8.0, 8.0, 1e-5)
    books.approve(dear(), stands("a"))
    books.run(dear())
    assert books.draft(dear(), stands("ab", "validation")).places.keys() == {"b"}


def test_who_was_in_the_other_part_is_held_to_the_limit_for_one_study_too(books: Books) -> None:
    dearest = max(stated(other(), "train"), stated(other(), "validation"))
    books.limits = PrivacyLimits(dearest * 1.0001, 100.0, 1e-5)
    books.approve(other(), stands("a"))
    books.run(other())
    assert books.draft(other(), stands("ab", "validation")).places.keys() == {"b"}
    books.limits = PrivacyLimits(8.0, 100.0, 1e-5)
    assert books.draft(other(), stands("ab", "validation")).places.keys() == {"a", "b"}


def test_who_was_joined_once_is_one_person_though_the_list_was_lost(books: Books) -> None:
    """Each of two identifiers could pay; that one person stands there twice nobody could."""
    books.limits = AMPLE
    join(books.store, {"b": "a"})
    assert books.draft(other(), stands("abc")).left_out == {"a", "b"}


def test_who_is_joined_while_studies_run_leaves_what_both_together_cannot_pay(books: Books) -> None:
    books.limits = PrivacyLimits(8.0, 8.0, 1e-5)
    books.approve(dear(), stands("ac"))
    books.approve(cheap(), stands("b"))
    books.run(cheap())
    running = [dear(), cheap()]
    assert overdrawn(books.store, dear(), running, books.limits) == frozenset()
    join(books.store, {"b": "a"})
    assert overdrawn(books.store, dear(), running, books.limits) == {"a"}
    assert overdrawn(books.store, dear(), running, AMPLE) == frozenset()
    assert depart(books.store, dear().hash, stands("ac"), (), {"a"}) == 1
    assert departures(books.store, dear().hash) == {UNPAID: 1}


def test_the_test_part_pays_nothing_and_a_plan_without_a_mechanism_holds_nobody_out(
    books: Books,
) -> None:
    free = plan_titled("free", privacy={"mode": "none"})
    books.limits = PrivacyLimits(8.0, 0.1, 1e-5)
    tested = {"a": FrozenPatient("test", "a")}
    assert books.draft(dear(), stands("b") | tested).places == tested
    assert books.approve(free, stands("a")) == "a"
    assert np.isinf(
        Accounts(books.store, [free]).reserved(Accounts(books.store).history("a"), without="")
    ).all()
    assert books.draft(dear(), stands("a")).left_out == {"a"}


def test_who_leaves_is_said_why_and_never_comes_back_by_itself(books: Books) -> None:
    books.limits = AMPLE
    books.approve(dear(), stands("abcde"))
    books.charge(dear(), 1)
    today = stands("abcde") | {
        "b": FrozenPatient("train", "other"),
        "c": FrozenPatient("validation", "c"),
    }
    del today["d"]
    assert depart(books.store, dear().hash, today, {"a"}) == 4
    assert departures(books.store, dear().hash) == {OPTED_OUT: 1, CHANGED: 1, MOVED: 1, GONE: 1}
    books.charge(dear(), 2)
    assert depart(books.store, dear().hash, stands("abcde"), ()) == 0
    books.charge(dear(), 3)
    assert books.paid("b") == pytest.approx(whole(dear()) / 3)
    assert books.paid("e") == pytest.approx(whole(dear()))


def test_a_charge_that_was_reserved_before_somebody_left_stays_theirs(books: Books) -> None:
    books.approve(dear(), stands("ab"))
    books.charge(dear(), 1)
    assert take_out(books.store, {"a"}, [dear().hash, cheap().hash]) == (dear().hash,)
    books.charge(dear(), 1)  # after a crash
    books.charge(dear(), 2)
    assert books.paid("a") == pytest.approx(whole(dear()) / 3)
    assert books.paid("b") == pytest.approx(whole(dear()) * 2 / 3)


def test_approved_anew_who_cannot_pay_any_more_leaves(books: Books) -> None:
    books.approve(dear(), stands("ab"))
    books.charge(dear(), 1)
    books.approvals.end(dear().hash, "stopped", by="somebody")
    assert books.approve(other(), stands("a")) == "a"
    assert books.approve(dear(), stands("ab")) == "b"
    assert departures(books.store, dear().hash) == {UNPAID: 1}


def test_one_person_under_two_identifiers_pays_and_is_left_out_as_one(books: Books) -> None:
    books.approve(dear(), stands("a"))
    books.run(dear())
    assert "b" in books.draft(other(), stands("b")).places
    join(books.store, {"b": "a"})
    assert books.draft(other(), stands("b")).left_out == {"b"}


def test_one_study_more_than_is_paid_for_leaves_its_patients_out(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set aside for samples that are too large suffices for so many studies, and no more.

    Of a thousand, the test makes two: charged ones and running ones count, and so does the one
    that is joined to somebody late.
    """
    monkeypatch.setattr(membership, "MOST_STUDIES", 2)
    books.limits = AMPLE
    books.approve(dear(), stands("abc"))
    books.charge(dear(), 1)
    books.approvals.end(dear().hash, "stopped", by="somebody")
    books.approve(cheap(), stands("abd"))
    take_out(books.store, {"b"}, [cheap().hash])  # before anything of it was charged
    assert books.draft(other(), stands("abcde")).left_out == {"a"}
    assert books.approve(other(), stands("bcde")) == "bcde"
    assert books.draft(cheap(), stands("ad")).places.keys() == {"a", "d"}  # they stand in it
    books.charge(other(), 1)
    running = [dear(), cheap(), other()]
    assert overdrawn(books.store, other(), running, AMPLE) == frozenset()
    join(books.store, {"e": "a"})
    assert overdrawn(books.store, other(), running, AMPLE) == {"e"}


def test_a_part_holds_no_more_than_the_plans_bound(books: Books) -> None:
    """Those beyond, by pseudonym, are not in, and are not said to be unable to pay."""
    few = Offer.model_validate(OFFER.model_dump() | {"declared_patients": 3, "most_patients": 3})
    plan = write_plan(small_study(), few, 106)
    today = (
        stands("cabed")
        | stands("wxz", "validation")
        | {name: FrozenPatient("test", name) for name in "klmnop"}
    )
    drafted = books.draft(plan, today)
    assert "".join(sorted(drafted.places)) == "abcklmnopwxz"
    assert drafted.left_out == frozenset()
    assert drafted.crowded == {"train": 5}
    assert books.draft(plan, stands("abc")).crowded == {}


@given(
    ran=st.lists(st.sampled_from(PLANS), max_size=2, unique=True),
    who=st.lists(st.sets(st.sampled_from("abcdef")), min_size=2, max_size=2),
    company=st.sets(st.sampled_from("abcdef")),
)
@settings(max_examples=25, deadline=None)
def test_whether_a_patient_is_in_does_not_depend_on_who_else_is_there(
    ran: list[Callable[[], Plan]], who: list[set[str]], company: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        books = Books(Path(folder) / "site.sqlite")
        for made, patients in zip(ran, who, strict=False):
            books.approve(made(), stands("".join(patients)))
            books.run(made(), 2)
        together = books.draft(other(), stands("".join(company)))
        for patient in company:
            alone = books.draft(other(), stands(patient))
            assert (patient in alone.places) == (patient in together.places)
        books.store.close()


class Studies(RuleBasedStateMachine):
    """Studies come, run, end and are approved anew; patients come and leave; never too much.

    What each has paid is kept here too, charge by charge, and no charge is ever refused for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.books = Books(Path(self.folder.name) / "site.sqlite")
        self.inside: dict[str, dict[str, Part]] = {each().hash: {} for each in PLANS}
        self.running: set[str] = set()
        self.made: dict[tuple[str, Part], int] = {}
        self.paid: dict[str, Any] = {patient: np.zeros(len(ORDERS)) for patient in "abcd"}
        self.places: dict[str, set[tuple[str, Part]]] = {patient: set() for patient in "abcd"}

    @rule(
        which=st.integers(0, 2),
        today=st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["train", "validation"])),
    )
    def approve(self, which: int, today: dict[str, Part]) -> None:
        plan = PLANS[which]()
        let_in = self.books.approve(
            plan, {name: FrozenPatient(today[name], name) for name in today}
        )
        self.inside[plan.hash] = {patient: today[patient] for patient in let_in}
        self.running.add(plan.hash)

    @rule(which=st.integers(0, 2), part=st.sampled_from(["train", "validation"]))
    def charge(self, which: int, part: Part) -> None:
        plan = PLANS[which]()
        number, event = self.made.get((plan.hash, part), 0) + 1, event_of(plan, part)
        most = 3 if part == "train" else len(plan.study.evaluation_rounds)
        if plan.hash not in self.running or number > most or event is None:
            return
        self.books.charge(plan, number, part)
        self.made[plan.hash, part] = number
        for patient, stood in self.inside[plan.hash].items():
            if stood == part:
                self.paid[patient] = self.paid[patient] + renyi(event)
                self.places[patient].add((plan.hash, part))

    @rule(which=st.integers(0, 2), patients=st.sets(st.sampled_from("abcd")))
    def leave(self, which: int, patients: set[str]) -> None:
        plan = PLANS[which]()
        take_out(self.books.store, patients, [plan.hash])
        for patient in patients:
            self.inside[plan.hash].pop(patient, None)

    @rule(which=st.integers(0, 2), state=st.sampled_from(["stopped", "denied"]))
    def end(self, which: int, state: Any) -> None:  # noqa: ANN401 - a state
        self.books.approvals.end(PLANS[which]().hash, state, by="somebody")
        self.running.discard(PLANS[which]().hash)

    @rule()
    def restart(self) -> None:
        self.books.store.close()
        self.books.store = SiteDatabase(self.books.path)

    @invariant()
    def nobody_has_paid_more_than_the_total(self) -> None:
        accounts = Accounts(self.books.store)
        for patient, paid in self.paid.items():
            history = accounts.history(patient)
            assert is_single(history)
            assert accounts.paid(history) == pytest.approx(paid)
            epsilon = TIGHT.spent(paid)
            if len(self.places[patient]) == 1:
                ((plan_hash, part),) = self.places[patient]
                (plan,) = (each() for each in PLANS if each().hash == plan_hash)
                epsilon = min(epsilon, stated(plan, part))
            assert epsilon <= TIGHT.epsilon_total

    def teardown(self) -> None:
        self.books.store.close()
        self.folder.cleanup()


Studies.TestCase.settings = settings(
    max_examples=settings().max_examples * 2 // 5, stateful_step_count=25, deadline=None
)
TestStudies = Studies.TestCase


def test_who_could_pay_at_the_best_order_afterwards_alone_is_left_out(books: Books) -> None:
    """The filter reads one order for all: which would be best depends on what was released."""
    books.approve(dear(), stands("a"))
    books.run(dear())
    both = whole(dear()) + whole(other())
    totals = [renyi_epsilon(both, 1e-5) * (1 + percent / 100) for percent in range(1, 100)]
    fits = [PrivacyLimits(8.0, total, 1e-5).spent(both) <= total for total in totals]
    enough = fits.index(True)
    assert enough > 0, "there are totals under which the best order alone would do"
    books.limits = PrivacyLimits(8.0, totals[enough - 1], 1e-5)
    assert books.draft(other(), stands("ab")).left_out == {"a"}
    books.limits = PrivacyLimits(8.0, totals[enough], 1e-5)
    assert books.draft(other(), stands("ab")).left_out == frozenset()


@pytest.mark.parametrize("bound", ["one study", "all studies"])
def test_who_will_have_spent_exactly_the_limit_is_in_and_who_a_hair_more_is_not(
    books: Books, bound: str
) -> None:
    most = stated(dear(), "train")
    for limit, let_in in ((most, {"a"}), (math.nextafter(most, 0), set())):
        books.limits = PrivacyLimits(limit, 100.0, 1e-5)
        if bound == "all studies":
            books.limits = PrivacyLimits(100.0, limit, 1e-5)
        assert books.draft(dear(), stands("a")).places.keys() == let_in


def test_what_is_told_of_one_plan_is_of_that_plan_alone(books: Books) -> None:
    books.limits = AMPLE
    books.approve(dear(), stands("abc"))
    books.approve(cheap(), stands("abcd"))
    books.charge(dear(), 1)
    assert depart(books.store, dear().hash, stands("bc"), ()) == 1
    assert depart(books.store, cheap().hash, stands("abcd"), {"c", "d"}) == 2
    assert departures(books.store, dear().hash) == {GONE: 1}
    assert departures(books.store, cheap().hash) == {OPTED_OUT: 2}
    assert not leavers(books.store, dear().hash, stands("bc"), ())
    assert leavers(books.store, dear().hash, stands("bc"), {"b"})
    assert leavers(books.store, dear().hash, stands("b"), ())
    assert is_known(books.store, "d")
    assert not is_known(books.store, "e")
    books.charge(dear(), 2)
    assert books.paid("a") == pytest.approx(whole(dear()) / 3)
    assert not books.paid("d").any()


def test_who_stood_in_a_plan_is_forgotten_where_nothing_was_charged_alone(books: Books) -> None:
    books.limits = AMPLE
    books.approve(dear(), stands("ab"))
    books.approve(cheap(), stands("bc"))
    books.charge(dear(), 1)
    assert not forget(books.store, dear().hash)
    assert forget(books.store, cheap().hash)
    assert not is_known(books.store, "c")
    assert books.paid("a") == pytest.approx(whole(dear()) / 3)


def test_neither_a_draft_nor_a_place_shows_who_is_in_it(books: Books) -> None:
    books.approve(dear(), stands("a"))
    books.run(dear())
    secret = FrozenPatient("train", "digest-of-somebody")
    drafted = books.draft(other(), {"pseudonym-b": secret} | stands("a"))
    assert drafted.left_out == {"a"}
    assert "pseudonym" not in repr(drafted)
    assert "'a'" not in repr(drafted)
    assert "digest" not in repr(secret)


def test_who_is_joined_with_a_stranger_stays_in_the_one_plan_that_was_theirs(books: Books) -> None:
    """What the plan states is the figure that counts; the filter's alone would be too much."""
    books.limits = PrivacyLimits(8.0, 8.0, 1e-5)
    books.approve(dear(), stands("ab"))
    books.charge(dear(), 1)
    join(books.store, {"stranger": "b"})
    assert books.limits.spent(whole(dear())) > 8.0
    assert overdrawn(books.store, dear(), [dear()], books.limits) == frozenset()
    join(books.store, {"a": "b"})
    assert overdrawn(books.store, dear(), [dear()], books.limits) == {"a", "b"}
