"""The patients' accounts: what all charges together have released about each patient.

A patient pays the charges that were made to a part of a plan while the patient was in it: a stay.
An account follows from its stays alone, so patients with the same stays share one. Renyi
divergences add up, in any order.

Identifiers that turn out to be one person's have one account, all of theirs together
(:func:`join`). If that person was twice in one release, the release was about two patients and is
counted so: a Gaussian mechanism of twice the sensitivity, on a sample that contains at least one
of the two. For k identifiers the noise is k times smaller, relative to what it hides, and the rate
is 1 - (1 - q)^k. The true mixture, in which fewer than k may be drawn, costs no more: seen along
one line, to move a mean further away from zero makes the two outcomes easier to tell apart at
every threshold (mixtures of Gaussians: Choquette-Choo, Ganesh, Steinke and Thakurta 2024,
arXiv:2310.15526, section 4).

The cost of one event takes up to a tenth of a second to compute, and is kept in the store.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from client.data.cohort import Foldings
from client.records.store import SiteDatabase
from common.documents import read_json
from common.plan import Plan, read_plan
from common.privacy.accounting import (
    ACCOUNTANT,
    ORDERS,
    SampledGaussian,
    filter_epsilon,
    filter_order,
    renyi,
)
from common.privacy.cap import composed
from common.privacy.mechanisms import PatientMechanism

Divergences = npt.NDArray[np.float64]
Part = Literal["train", "validation"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
STILL: Final = 2**62
"""The end of a stay that has not ended: larger than any ledger's length, so ends compare."""
_SPELT: Final = "spelt "
_IGNORED: Final = "ignored-in-patient-ids"
_Event = tuple[float, float] | None
"""Sampling rate and noise multiplier; None for a release without privacy protection."""


@dataclass(frozen=True)
class PrivacyLimits:
    """The maximum privacy cost for a patient that the site's policy allows.

    Attributes:
        epsilon_per_study: the most for one study.
        epsilon_total: the most over all studies.
        delta: with which probability the bounds may fail; a part of it pays for caps on samples
            (:mod:`common.privacy.cap`), and the rest is what divergences are read at.
    """

    epsilon_per_study: float
    epsilon_total: float
    delta: float

    def spent(self, divergences: Divergences) -> float:
        """Epsilon of all that was released, as the filter for the total reads it."""
        # One order, fixed by the policy: the best order afterwards would depend on what was
        # released, which a filter does not allow (Feldman and Zrnic 2021).
        delta = composed(self.delta)
        return filter_epsilon(divergences, delta, filter_order(self.epsilon_total, delta))


class Stay(NamedTuple):
    """A patient's time in a part of a plan's cohort, in lengths of the ledger.

    Charges beyond ``since`` up to ``until`` are the patient's; :data:`STILL` has not ended.
    """

    plan_hash: str
    part: Part
    since: int
    until: int


History = tuple[Stay, ...]
"""All stays of a patient, sorted; of one person under several identifiers, of them all."""


class Accounts:
    """The accounts of a site's patients, as the store has them at one moment.

    Args:
        store: an open store; to decide by what is read here, hold a transaction.
        running: the approved plans whose rounds may still come.
    """

    def __init__(self, store: SiteDatabase, running: Iterable[Plan] = ()) -> None:
        self._store = store
        self._running = {plan.hash: plan for plan in running}
        self._plans = dict(self._running)
        self._charges = _charges(store)
        self._people = joined(store)
        self._stays: defaultdict[str, list[Stay]] = defaultdict(list)
        rows = store.execute(
            "SELECT patient, plan_hash, part, since, coalesce(until, ?) FROM members"
            " WHERE part != 'test'",
            STILL,
        )
        for patient, *stay in rows:
            self._stays[self.person(patient)].append(Stay(*stay))

    def person(self, patient: str) -> str:
        """The pseudonym under which a patient, and those joined with that patient, are counted."""
        return self._people.get(patient, patient)

    def history(self, patient: str) -> History:
        """The stays of a patient; none if the patient is unknown."""
        return tuple(sorted(self._stays.get(self.person(patient), ())))

    def histories(self) -> set[History]:
        """The different histories there are."""
        return {tuple(sorted(stays)) for stays in self._stays.values()}

    def histories_in(self, plan_hash: str) -> set[History]:
        """The different histories there are, of one plan's stays alone."""
        of_plan = (
            tuple(sorted(stay for stay in stays if stay.plan_hash == plan_hash))
            for stays in self._stays.values()
        )
        return {history for history in of_plan if history}

    def paid(self, history: History) -> Divergences:
        """The divergences of all that was released in these stays, float64 at ``ORDERS``."""
        total = np.zeros(len(ORDERS))
        for stays in _by_place(history).values():
            for event, made in self._charges.get(stays[0][:2], {}).items():
                for count, times in _overlaps(stays, made):
                    total = total + self._cost(event, count, times)
        return total

    def reserved(self, history: History, *, without: str) -> Divergences:
        """The divergences of all that may still be charged in stays that have not ended.

        Args:
            history: the stays.
            without: hash of a plan that is left out.
        """
        total = np.zeros(len(ORDERS))
        for (plan_hash, part), stays in _by_place(history).items():
            times = sum(stay.until == STILL for stay in stays)
            if times and plan_hash != without and plan_hash in self._running:
                total = total + self.remaining(self._running[plan_hash], part, times)
        return total

    def remaining(self, plan: Plan, part: Part, times: int = 1) -> Divergences:
        """The divergences of what a plan may still charge to a part of its cohort."""
        whole = foreseen(plan, part)
        if whole is None:
            return np.zeros(len(ORDERS))
        # All charges, no matter who paid them: what is left of the plan's own count is its rest.
        made = self._charges.get((plan.hash, part), {}).values()
        left = whole - sum(counts[-1] for _, counts in made)
        return self._cost(_event(plan, part), left, times)

    def plan(self, plan_hash: str) -> Plan:
        """A plan that was proposed here once."""
        if plan_hash not in self._plans:
            row = self._store.execute(
                "SELECT plan FROM approvals WHERE plan_hash = ?", plan_hash
            ).fetchone()
            self._plans[plan_hash] = read_plan(row["plan"])
        return self._plans[plan_hash]

    def places(self, history: History) -> set[tuple[str, Part]]:
        """Plans and parts to which something was charged in these stays."""
        return {
            place
            for place, stays in _by_place(history).items()
            if any(_overlaps(stays, made) for made in self._charges.get(place, {}).values())
        }

    def studies(self, history: History, *, without: str) -> int:
        """How many plans have been charged in these stays, or may still be; ``without`` one."""
        open_ = {stay.plan_hash for stay in history if stay.until == STILL} & self._running.keys()
        charged = {plan_hash for plan_hash, _ in self.places(history)}
        return len((open_ | charged) - {without})

    def _cost(self, event: _Event, count: int, times: int) -> Divergences:
        if not count:
            return np.zeros(len(ORDERS))
        # Infinite: after a release without privacy no private study may follow for this patient.
        if event is None:
            return np.full(len(ORDERS), math.inf)
        rate, noise = event
        # The same person k times in one release: see the module's docstring.
        if times > 1:
            rate, noise = 1 - (1 - rate) ** times, noise / times
        return cost(
            self._store, SampledGaussian(sampling_rate=rate, noise_multiplier=noise, count=count)
        )


def cost(store: SiteDatabase, event: SampledGaussian) -> Divergences:
    """The divergences of an event: as stored, else computed and stored."""
    key = (ACCOUNTANT, event.sampling_rate, event.noise_multiplier)
    row = store.execute(
        "SELECT divergences FROM costs"
        " WHERE accountant = ? AND sampling_rate = ? AND noise_multiplier = ?",
        *key,
    ).fetchone()
    if row is not None:
        return event.count * np.frombuffer(row["divergences"], dtype="<f8")
    # Stored for one event, as little-endian float64: divergences of repeated events are multiples.
    once = renyi(event.model_copy(update={"count": 1})).astype("<f8")
    store.execute("INSERT OR IGNORE INTO costs VALUES (?, ?, ?, ?)", *key, once.tobytes())
    return event.count * once


def foresee(store: SiteDatabase, plan: Plan) -> None:
    """Store what a plan's events cost, so that reading accounts later computes nothing."""
    for part in PARTS:
        if foreseen(plan, part) and (event := event_of(plan, part)):
            cost(store, event)


def forget(store: SiteDatabase, plan: Plan) -> None:
    """Keep no cost for a plan's sake that nothing was charged for."""
    for part in PARTS:
        if (event := event_of(plan, part)) is not None:
            store.execute(
                "DELETE FROM costs WHERE sampling_rate = ? AND noise_multiplier = ?"
                " AND NOT EXISTS (SELECT 1 FROM charges"
                " WHERE charges.sampling_rate = costs.sampling_rate"
                " AND charges.noise_multiplier = costs.noise_multiplier)",
                event.sampling_rate,
                event.noise_multiplier,
            )


def event_of(plan: Plan, part: Part) -> SampledGaussian | None:
    """What one round of a plan does to a part of its cohort; None where nothing bounds it."""
    mechanism = plan.mechanism
    if not isinstance(mechanism, PatientMechanism):
        return None
    if part == "validation":
        return mechanism.evaluation
    return mechanism.step.model_copy(update={"count": plan.study.training.local_steps})


def foreseen(plan: Plan, part: Part) -> int | None:
    """How much a whole plan does to a part of its cohort, in counts; None for nothing at all."""
    if part == "validation":
        return len(plan.study.evaluation_rounds) or None
    training = plan.study.training
    private = isinstance(plan.mechanism, PatientMechanism)
    return training.rounds * (training.local_steps if private else 1)


def stated(plan: Plan, part: Part) -> float:
    """Epsilon that a plan states for a part of its cohort, over the whole study."""
    mechanism = plan.mechanism
    if not isinstance(mechanism, PatientMechanism):
        return math.inf
    return mechanism.epsilon_training if part == "train" else mechanism.epsilon_evaluation


def join(store: SiteDatabase, persons: Mapping[str, str]) -> None:
    """Record that identifiers are one person's: what was joined once stays one account.

    Args:
        store: an open store.
        persons: pseudonyms, each with that of the person; sensitive.
    """
    # Only pairs that are not one person yet, so that a list that is read at every request writes
    # nothing. A pair that left the list stays joined: what was spent together stays spent.
    pairs = [each for each in sorted(persons.items()) if each[0] != each[1]]
    known = joined(store) if pairs else {}
    new = [each for each in pairs if known.get(each[0], each[0]) != known.get(each[1], each[1])]
    if new:
        with store.transaction():
            store.execute_each("INSERT OR IGNORE INTO joins VALUES (?, ?)", new)


def join_spellings(
    store: SiteDatabase, foldings: Foldings, ignored: int, *, remember: bool
) -> None:
    """Join the identifiers that are one person's in all but what the site ignores.

    A site may ignore more one day, when the files of a patient who paid have other identifiers or
    lie elsewhere. So it keeps by pseudonyms what each identifier would be under every rule, and
    under a new rule joins those that it has read before too.

    Args:
        store: an open store.
        foldings: of the identifiers that were read; sensitive.
        ignored: the number of the site's rule.
        remember: whether they may be charged now, so that they must be known later.
    """
    with store.transaction():
        if remember:
            store.execute_each(
                "INSERT OR IGNORE INTO facts VALUES (?, ?)",
                ((_SPELT + written, json.dumps(found)) for written, found in foldings.items()),
            )
        if store.fact(_IGNORED) != str(ignored):
            rows = store.execute("SELECT name, value FROM facts WHERE name GLOB ?", _SPELT + "*")
            before = {row["name"].removeprefix(_SPELT): read_json(row["value"]) for row in rows}
            foldings = foldings | before
            store.keep(_IGNORED, str(ignored))
        join(
            store,
            {
                written: spelt
                for written, found in foldings.items()
                for spelt, numbers in found.items()
                if ignored in numbers
            },
        )


def joined(store: SiteDatabase) -> dict[str, str]:
    """For each joined pseudonym, the one that represents the person: the smallest of the group."""
    groups: dict[str, set[str]] = {}
    for row in store.execute("SELECT patient, person FROM joins"):
        both = groups.get(row["patient"], {row["patient"]}) | groups.get(
            row["person"], {row["person"]}
        )
        groups.update(dict.fromkeys(both, both))
    return {patient: min(group) for patient, group in groups.items()}


def everyone_joined(store: SiteDatabase, patients: Collection[str]) -> frozenset[str]:
    """These patients, and all identifiers that are one person with one of them."""
    people = joined(store)
    meant = {people.get(patient, patient) for patient in patients}
    others = (patient for patient, person in people.items() if person in meant)
    return frozenset(patients) | frozenset(others)


def _event(plan: Plan, part: Part) -> _Event:
    event = event_of(plan, part)
    return None if event is None else (event.sampling_rate, event.noise_multiplier)


_Made = tuple[list[int], list[int]]
"""Lengths of the ledger at which charges were made, and the sum of their counts up to each."""


def _charges(store: SiteDatabase) -> dict[tuple[str, Part], dict[_Event, _Made]]:
    """The charges of each plan and part, by what they did."""
    made: dict[tuple[str, Part], dict[_Event, _Made]] = {}
    for plan_hash, part, length, rate, noise, count in store.execute(
        "SELECT plan_hash, part, length, sampling_rate, noise_multiplier, count FROM charges"
        " ORDER BY length"
    ):
        event = None if rate is None else (rate, noise)
        lengths, counts = made.setdefault((plan_hash, part), {}).setdefault(event, ([], []))
        lengths.append(length)
        counts.append((counts[-1] if counts else 0) + count)
    return made


def _by_place(history: History) -> dict[tuple[str, Part], list[Stay]]:
    places: defaultdict[tuple[str, Part], list[Stay]] = defaultdict(list)
    for stay in history:
        places[stay.plan_hash, stay.part].append(stay)
    return places


def _overlaps(stays: list[Stay], made: _Made) -> list[tuple[int, int]]:
    """How much was charged in stays in one part of a plan, by how many of them it fell in."""
    # Between two edges of stays the number of stays is constant, so charges there are counted once.
    charged: Counter[int] = Counter()
    for first, last in pairwise(sorted({edge for stay in stays for edge in stay[2:]})):
        times = sum(stay.since <= first and last <= stay.until for stay in stays)
        if times:
            charged[times] += _up_to(made, last) - _up_to(made, first)
    return [(count, times) for times, count in charged.items() if count]


def _up_to(made: _Made, length: int) -> int:
    lengths, counts = made
    place = bisect_right(lengths, length)
    return counts[place - 1] if place else 0
