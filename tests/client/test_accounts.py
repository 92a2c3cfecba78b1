"""Accounts: what was released about each kind of patient, whatever the order it came in."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.accounts import accounts, cost, enrol
from client.store import Store
from common.accounting import ORDERS, SampledGaussian, renyi

EVENTS = (
    SampledGaussian(sampling_rate=0.25, noise_multiplier=2.0, count=3),
    SampledGaussian(sampling_rate=1.0, noise_multiplier=9.0, count=1),
)
MEMBERS = {("one", "train"): "abc", ("one", "validation"): "d", ("two", "train"): "cd"}
HISTORIES = {
    "a": {("one", "train")},
    "b": {("one", "train")},
    "c": {("one", "train"), ("two", "train")},
    "d": {("one", "validation"), ("two", "train")},
}


def opened(folder: str | Path) -> Store:
    """A store with two plans and four patients, who are called by one letter each."""
    store = Store(Path(folder) / "site.sqlite")
    for plan in ("one", "two"):
        store.execute(
            "INSERT INTO approvals (plan_hash, study, plan, cohort, state)"
            " VALUES (?, 'a study', 'a plan', 'a cohort', 'approved')",
            plan,
        )
    for (plan, part), patients in MEMBERS.items():
        enrol(store, plan, part, patients)
    return store


def charge(store: Store, number: int, plan: str, part: str, event: SampledGaussian | None) -> None:
    store.execute(
        "INSERT INTO charges (length, hash, plan_hash, round, part, identity, sampling_rate,"
        " noise_multiplier, count, state) VALUES (?, '', ?, ?, ?, ?, ?, ?, ?, 'reserved')",
        number,
        plan,
        number,
        part,
        str(number),
        event.sampling_rate if event else None,
        event.noise_multiplier if event else None,
        event.count if event else 1,
    )


charges = st.lists(
    st.tuples(st.sampled_from(sorted(MEMBERS)), st.sampled_from(EVENTS)), max_size=12
)


@given(made=charges)
@settings(max_examples=30, deadline=None)
def test_a_patient_pays_for_every_charge_of_every_part_it_stands_in(
    made: list[tuple[tuple[str, str], SampledGaussian]],
) -> None:
    """Added up here patient by patient, in the order in which the charges came."""
    with tempfile.TemporaryDirectory() as folder, opened(folder) as store:
        for number, ((plan, part), event) in enumerate(made, 1):
            charge(store, number, plan, part, event)
        for plan in ("one", "two"):
            found = accounts(store, plan)
            stands = [history for history in HISTORIES.values() if plan in dict(history)]
            assert set(found) == {frozenset(history) for history in stands}
            for history, account in found.items():
                paid = [event for place, event in made if place in history]
                others = [event for place, event in made if place in history and place[0] != plan]
                nothing = np.zeros(len(ORDERS))
                assert account.total == pytest.approx(sum(map(renyi, paid), nothing))
                assert account.others == pytest.approx(sum(map(renyi, others), nothing))


def test_a_release_that_nothing_bounds_makes_the_account_infinite(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        charge(store, 1, "one", "train", None)
        found = accounts(store, "two")
        assert np.isinf(found[frozenset(HISTORIES["c"])].total).all()
        assert not found[frozenset(HISTORIES["d"])].total.any()


def test_a_plan_of_nobody_has_no_accounts(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert accounts(store, "three") == {}


def test_a_cost_is_kept_for_one_event_and_multiplied(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for event in EVENTS * 2:
            assert cost(store, event) == pytest.approx(renyi(event))
        assert store.execute("SELECT count(*) FROM costs").fetchone()[0] == len(EVENTS)
