"""The patients' accounts: what all charges together have released about each kind of patient.

An account depends on nothing but the plans in which a patient stood, and in which part of
each; patients with the same history share one. Renyi divergences add up, in any order.

What one event costs takes up to a tenth of a second to compute, and finding the histories
grows with the number of patients. Both are done at the approval and kept in the store, so
that each round's check is a few queries and additions, however many rounds and patients there
are, also right after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.store import HISTORIES, Store
from common.accounting import ACCOUNTANT, ORDERS, SampledGaussian, renyi

Divergences = npt.NDArray[np.float64]
History = frozenset[tuple[str, str]]
"""The plans in which a patient stood, each with the part (train, validation)."""


@dataclass(frozen=True, eq=False)
class Account:
    """What was released about the patients of one history.

    Attributes:
        total: divergences of all plans' charges, float64 at :data:`ORDERS`.
        others: the same without one plan.
    """

    total: Divergences
    others: Divergences


def accounts(store: Store, plan_hash: str) -> dict[History, Account]:
    """The account of each kind of patient in a plan, which is the one left out of `others`."""
    spent, nothing = _spent(store), np.zeros(len(ORDERS))

    def over(history: History) -> Divergences:
        return sum((spent.get(entry, nothing) for entry in history), nothing)

    return {
        history: Account(
            over(history), over(frozenset(entry for entry in history if entry[0] != plan_hash))
        )
        for history in _histories(store, plan_hash)
    }


def cost(store: Store, event: SampledGaussian) -> Divergences:
    """The divergences of an event: as stored, else computed and stored."""
    key = (ACCOUNTANT, event.sampling_rate, event.noise_multiplier)
    row = store.execute(
        "SELECT divergences FROM costs"
        " WHERE accountant = ? AND sampling_rate = ? AND noise_multiplier = ?",
        *key,
    ).fetchone()
    if row is not None:
        return event.count * np.frombuffer(row["divergences"], dtype="<f8")
    once = renyi(event.model_copy(update={"count": 1})).astype("<f8")
    store.execute("INSERT INTO costs VALUES (?, ?, ?, ?)", *key, once.tobytes())
    return event.count * once


def enrol(store: Store, plan_hash: str, part: str, pseudonyms: Iterable[str]) -> None:
    """Record who stands in a part of a plan's cohort; nothing is charged to the test part."""
    for pseudonym in pseudonyms:
        store.execute(
            "INSERT INTO members (plan_hash, patient, part) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET present = 1",
            plan_hash,
            pseudonym,
            part,
        )
    if part != "test":
        store.execute("DELETE FROM histories")
        store.execute(HISTORIES)


def is_known(store: Store, pseudonym: str) -> bool:
    """Whether a patient stands or stood in any cohort that was recorded."""
    found = store.execute("SELECT 1 FROM members WHERE patient = ? LIMIT 1", pseudonym)
    return found.fetchone() is not None


def leave(store: Store, plan_hash: str) -> None:
    """Empty a plan's cohort before it is frozen anew.

    Who stood in it when something was released stays a member, and pays.
    """
    charged = store.execute("SELECT 1 FROM charges WHERE plan_hash = ?", plan_hash).fetchone()
    if charged:
        store.execute("UPDATE members SET present = 0 WHERE plan_hash = ?", plan_hash)
    else:
        store.execute("DELETE FROM members WHERE plan_hash = ?", plan_hash)


def forget(store: Store, plan_hash: str) -> bool:
    """Keep nothing about a plan's cohort; False, and all is kept, where it was charged."""
    if store.execute("SELECT 1 FROM charges WHERE plan_hash = ?", plan_hash).fetchone():
        return False
    leave(store, plan_hash)
    store.execute("DELETE FROM histories")
    store.execute(HISTORIES)
    store.execute(
        "DELETE FROM costs WHERE NOT EXISTS (SELECT 1 FROM charges WHERE charges.sampling_rate ="
        " costs.sampling_rate AND charges.noise_multiplier = costs.noise_multiplier)"
    )
    return True


def _spent(store: Store) -> dict[tuple[str, str], Divergences]:
    """The divergences of all charges by plan and part, infinite where nothing bounds them."""
    rows = store.execute(
        "SELECT plan_hash, part, sampling_rate, noise_multiplier, sum(count) AS count"
        " FROM charges GROUP BY plan_hash, part, sampling_rate, noise_multiplier"
    ).fetchall()
    total: dict[tuple[str, str], Divergences] = {}
    for plan_hash, part, rate, noise, count in rows:
        added = (
            np.full(len(ORDERS), math.inf)
            if rate is None
            else cost(
                store, SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=count)
            )
        )
        total[plan_hash, part] = total.get((plan_hash, part), 0.0) + added
    return total


def _histories(store: Store, plan_hash: str) -> set[History]:
    """The different sets of (plan, part) in which this plan's patients stand."""
    rows = store.execute("SELECT history FROM histories WHERE plan_hash = ?", plan_hash).fetchall()
    return {
        frozenset((entry.split()[0], entry.split()[1]) for entry in row["history"].split(","))
        for row in rows
    }
