"""Accounts: what was released about each patient, whatever the order it came in."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.pseudonyms import Pseudonyms, rule
from client.records.accounts import (
    PARTS,
    STILL,
    Accounts,
    PrivacyLimits,
    Stay,
    cost,
    event_of,
    everyone_joined,
    foresee,
    foreseen,
    forget,
    join,
    join_spellings,
    joined,
    stated,
)
from client.records.store import SiteDatabase
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.privacy.accounting import (
    ORDERS,
    SampledGaussian,
    filter_epsilon,
    filter_order,
    renyi,
    renyi_epsilon,
)
from common.privacy.cap import composed
from tests.common.studies import small_study

EVENTS = {
    "one": SampledGaussian(sampling_rate=0.25, noise_multiplier=2.0, count=3),
    "two": SampledGaussian(sampling_rate=1.0, noise_multiplier=9.0, count=1),
}
PLACES = [(plan, part) for plan in EVENTS for part in ("train", "validation")]
NOTHING = np.zeros(len(ORDERS))
OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)


def test_the_total_is_read_at_what_caps_on_samples_leave_of_delta() -> None:
    """Nine tenths; the order follows from the same number."""
    spent = 5 * renyi(EVENTS["one"])
    left = 0.9 * 1e-5
    wanted = filter_epsilon(spent, left, filter_order(20.0, left))
    assert PrivacyLimits(8.0, 20.0, 1e-5).spent(spent) == pytest.approx(wanted, rel=1e-12)
    whole = filter_epsilon(spent, 1e-5, filter_order(20.0, 1e-5))
    assert wanted > whole + 1e-3


def opened(folder: str | Path) -> SiteDatabase:
    """A store with two plans."""
    store = SiteDatabase(Path(folder) / "site.sqlite")
    for plan in EVENTS:
        store.execute(
            "INSERT INTO approvals (plan_hash, study, plan, state)"
            " VALUES (?, 'a study', 'a plan', 'approved')",
            plan,
        )
    return store


def stay(  # noqa: PLR0917 - a row
    store: SiteDatabase,
    patient: str,
    plan: str,
    part: str,
    since: int = 0,
    until: int | None = None,
) -> None:
    store.execute(
        "INSERT INTO members (plan_hash, patient, part, digest, since, until)"
        " VALUES (?, ?, ?, '', ?, ?)",
        plan,
        patient,
        part,
        since,
        until,
    )


def charge(store: SiteDatabase, number: int, plan: str, part: str, *, bounded: bool = True) -> None:
    event = EVENTS[plan]
    store.execute(
        "INSERT INTO charges (length, hash, plan_hash, round, part, identity, sampling_rate,"
        " noise_multiplier, count, state) VALUES (?, '', ?, ?, ?, ?, ?, ?, ?, 'reserved')",
        number,
        plan,
        number,
        part,
        str(number),
        event.sampling_rate if bounded else None,
        event.noise_multiplier if bounded else None,
        event.count if bounded else 1,
    )


stays = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(PLACES),
        st.integers(0, 12),
        st.integers(0, 12) | st.none(),
    ),
    max_size=8,
)


@given(made=st.lists(st.sampled_from(PLACES), max_size=12), stood=stays)
@settings(max_examples=60, deadline=None)
def test_a_patient_pays_for_every_charge_of_every_part_while_in_it(
    made: list[tuple[str, str]],
    stood: list[tuple[str, tuple[str, str], int, int | None]],
) -> None:
    """Added up here charge by charge, and by how often the patient stood in it at the time."""
    with tempfile.TemporaryDirectory() as folder, opened(folder) as store:
        store.execute("DROP INDEX members_present")  # one person under several identifiers
        for number, place in enumerate(made, 1):
            charge(store, number, *place)
        for patient, place, since, until in stood:
            ends = None if until is None else max(since, until)
            stay(store, patient, *place, since=since, until=ends)
        accounts = Accounts(store)
        for patient in "abc":
            expected = NOTHING
            for number, place in enumerate(made, 1):
                times = sum(
                    (one, there) == (patient, place)
                    and since < number <= (STILL if until is None else max(since, until))
                    for one, there, since, until in stood
                )
                if times:
                    event = EVENTS[place[0]]
                    rate = 1 - (1 - event.sampling_rate) ** times
                    if times == 1:
                        rate = event.sampling_rate
                    hidden = SampledGaussian(
                        sampling_rate=rate,
                        noise_multiplier=event.noise_multiplier / times,
                        count=event.count,
                    )
                    expected = expected + renyi(hidden)
            assert accounts.paid(accounts.history(patient)) == pytest.approx(expected)


def test_who_left_pays_what_came_before_and_who_came_later_what_came_after(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for number in range(1, 6):
            charge(store, number, "one", "train")
        stay(store, "left", "one", "train", 0, 2)
        stay(store, "came", "one", "train", 4)
        stay(store, "never", "one", "train", 3, 3)
        accounts = Accounts(store)
        once = renyi(EVENTS["one"])
        for patient, times in (("left", 2), ("came", 1), ("never", 0), ("stranger", 0)):
            assert accounts.paid(accounts.history(patient)) == pytest.approx(times * once)


def test_one_person_under_two_identifiers_has_one_account_for_ever(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        charge(store, 1, "one", "train")
        charge(store, 2, "two", "train")
        stay(store, "a", "one", "train")
        stay(store, "b", "two", "train")
        join(store, {"b": "a", "a": "a"})
        join(store, {})
        accounts = Accounts(store)
        both = renyi(EVENTS["one"]) + renyi(EVENTS["two"])
        assert accounts.history("a") == accounts.history("b")
        assert accounts.paid(accounts.history("b")) == pytest.approx(both)


KEYED = Pseudonyms(bytes(32))
SPELT = ["A1", "a1", "00A1", "0a1", "A 1", "B", "b", "0b"]
READ = st.tuples(st.integers(0, 15), st.sets(st.sampled_from(SPELT)))


@settings(deadline=None, max_examples=30)
@given(st.lists(READ, min_size=1, max_size=5))
def test_an_account_holds_what_any_spelling_ever_paid_whatever_the_rule_was(
    reads: list[tuple[int, set[str]]],
) -> None:
    """Files come and go, and the rule changes, in any order; nothing that was one falls apart."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as store:
        seen: set[str] = set()
        paid: dict[str, float] = {}
        for length, (number, names) in enumerate(reads, 1):
            own = KEYED.ignoring(rule(number))
            foldings = {KEYED.written(name): KEYED.foldings(name) for name in names}
            join_spellings(store, foldings, number, remember=True)
            seen |= names
            charge(store, length, "two", "train")
            for patient in set(map(own.of, names)):
                stay(store, patient, "two", "train", length - 1, length)
            accounts = Accounts(store)
            for name in seen:
                history = accounts.history(own.of(name))
                assert history == accounts.history(KEYED.written(name))
                # Sums of all that are one now, and never less than any of them had paid.
                alike = {each for each in seen if own.of(each) == own.of(name)}
                assert {accounts.person(KEYED.written(each)) for each in alike} == {
                    accounts.person(own.of(name))
                }
                spent = float(accounts.paid(history).max())
                assert spent >= paid.get(name, 0.0)
                paid[name] = spent


def test_joins_add_up_and_take_along_whoever_was_joined_before(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        join(store, {"b": "a"})
        join(store, {"d": "c"})
        assert everyone_joined(store, ["b", "x"]) == {"a", "b", "x"}
        join(store, {"c": "b"})
        assert everyone_joined(store, ["d"]) == {"a", "b", "c", "d"}
        assert len(set(joined(store).values())) == 1


def test_who_stood_in_one_release_twice_has_paid_for_a_sensitivity_of_two(tmp_path: Path) -> None:
    """A Gaussian mechanism of twice the sensitivity: its divergence is four times as large."""
    with opened(tmp_path) as store:
        charge(store, 1, "two", "validation")
        stay(store, "a", "two", "validation")
        stay(store, "b", "two", "validation")
        join(store, {"b": "a"})
        accounts = Accounts(store)
        paid = accounts.paid(accounts.history("a"))
        assert paid == pytest.approx(4 * renyi(EVENTS["two"]), rel=1e-9)


def test_a_release_that_nothing_bounds_makes_the_account_infinite(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        charge(store, 1, "one", "train", bounded=False)
        stay(store, "a", "one", "train")
        stay(store, "b", "one", "validation")
        accounts = Accounts(store)
        assert (accounts.paid(accounts.history("a")) == math.inf).all()
        assert not accounts.paid(accounts.history("b")).any()


def test_the_test_part_is_no_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        charge(store, 1, "one", "train")
        stay(store, "a", "one", "test")
        stay(store, "b", "one", "train")
        accounts = Accounts(store)
        assert accounts.history("a") == ()
        assert accounts.histories() == {(Stay("one", "train", 0, STILL),)}


def test_a_cost_is_kept_for_one_event_and_multiplied(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for event in [*EVENTS.values(), *EVENTS.values()]:
            assert cost(store, event) == pytest.approx(renyi(event))
        assert store.execute("SELECT count(*) FROM costs").fetchone()[0] == len(EVENTS)


def fixed_order(total: float, delta: float) -> int:
    """Where in ``ORDERS`` most Gaussian mechanisms fit under a total, worked out anew.

    A Gaussian mechanism's divergence is its order times what does not depend on the order, so the
    most fit where what the total leaves after conversion (Balle et al. 2020), over the order, is
    largest.
    """
    fits = [
        (total - math.log(1 - 1 / order) + (math.log(delta) + math.log(order)) / (order - 1))
        / order
        for order in ORDERS
    ]
    return fits.index(max(fits))


@pytest.mark.parametrize(("total", "delta"), [(1.0, 1e-5), (3.0, 1e-6), (20.0, 1e-5)])
def test_the_total_reads_one_order_that_follows_from_the_policy_alone(
    total: float, delta: float
) -> None:
    """Whatever was released at the others, however little: the best order is not taken."""
    limits, delta = PrivacyLimits(total, total, delta), composed(delta)
    place = fixed_order(total, delta)
    order = ORDERS[place]
    for released in (0.01, 0.5, total):
        divergences = np.full(len(ORDERS), 1e-9)
        divergences[place] = released
        converted = released + math.log(1 - 1 / order)
        converted -= (math.log(delta) + math.log(order)) / (order - 1)
        assert limits.spent(divergences) == pytest.approx(max(converted, 0.0))
        assert renyi_epsilon(divergences, delta) < limits.spent(divergences)
        divergences[:place] = divergences[place + 1 :] = math.inf
        assert limits.spent(divergences) == pytest.approx(max(converted, 0.0))


def test_the_total_reads_the_fixed_order_where_another_would_be_the_better() -> None:
    """Rare draws with little noise: the best order afterwards would say far less."""
    limits = PrivacyLimits(20.0, 20.0, 1e-5)
    released = 40 * renyi(SampledGaussian(sampling_rate=0.02, noise_multiplier=0.8, count=1))
    assert limits.spent(released) > 1.2 * renyi_epsilon(released, limits.delta)


def test_a_cost_is_that_of_its_own_rate_noise_and_accountant(tmp_path: Path) -> None:
    """Events that share a rate or a noise, and costs that another accountant left behind."""
    with opened(tmp_path) as store:
        for rate, noise in ((0.25, 2.0), (0.25, 3.0), (0.5, 2.0), (0.5, 3.0)):
            event = SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=2)
            assert cost(store, event) == pytest.approx(renyi(event))
            assert cost(store, event) == pytest.approx(renyi(event)), "as it was stored"
        store.execute("UPDATE costs SET accountant = 'another', divergences = ?", NOTHING.tobytes())
        assert cost(store, event) == pytest.approx(renyi(event))


def test_costs_are_kept_for_what_was_charged_and_forgotten_for_what_was_not(
    tmp_path: Path,
) -> None:
    """All three evaluate alike; to forget one forgets nothing of the others' training."""
    with opened(tmp_path) as store:
        plans = [
            write_plan(small_study(training={"batch_size": size}), OFFER, 106) for size in (5, 6, 7)
        ]
        for plan in plans:
            foresee(store, plan)

        def kept() -> set[tuple[float, float]]:
            rows = store.execute("SELECT sampling_rate, noise_multiplier FROM costs")
            return {(rate, noise) for rate, noise in rows}

        def of(*plans: Plan) -> set[tuple[float, float]]:
            events = [event_of(plan, part) for plan in plans for part in PARTS]
            return {(each.sampling_rate, each.noise_multiplier) for each in events if each}

        assert kept() == of(*plans)
        first, second, third = plans
        charged = event_of(first, "train")
        assert charged is not None
        store.execute(
            "INSERT INTO charges (length, hash, plan_hash, round, part, identity, sampling_rate,"
            " noise_multiplier, count, state) VALUES (1, '', 'one', 1, 'train', 'i', ?, ?, 2,"
            " 'reserved')",
            charged.sampling_rate,
            charged.noise_multiplier,
        )
        forget(store, first)
        assert (charged.sampling_rate, charged.noise_multiplier) in kept()
        assert kept() >= of(second, third) - of(first)
        forget(store, second)
        assert kept() >= of(third) - of(first, second)
        assert not kept() & (of(second) - of(first, third))


def test_what_a_plan_foresees_and_states_for_each_part_by_hand() -> None:
    """Three rounds of two steps, and one evaluation with half of epsilon 8."""
    plan = write_plan(small_study(), OFFER, 106)
    assert (foreseen(plan, "train"), foreseen(plan, "validation")) == (6, 1)
    assert 7.9 < stated(plan, "train") < 8.0
    assert 3.9 < stated(plan, "validation") < 4.0
    step, evaluation = event_of(plan, "train"), event_of(plan, "validation")
    assert step is not None
    assert evaluation is not None
    assert (step.sampling_rate, step.count) == (0.25, 2)
    assert (evaluation.sampling_rate, evaluation.count) == (1.0, 1)
    free = write_plan(small_study(privacy={"mode": "none"}), OFFER, 106)
    assert (foreseen(free, "train"), foreseen(free, "validation")) == (3, 1)
    assert (event_of(free, "train"), stated(free, "validation")) == (None, math.inf)
    unseen = write_plan(small_study(evaluation={"rounds": "none"}), OFFER, 106)
    assert foreseen(unseen, "validation") is None
