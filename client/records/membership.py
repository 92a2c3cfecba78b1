"""Which patients are in a plan's cohort: each joins once, if its own account can pay for it.

*Joining*, when the cohort is frozen: a patient of that day joins if that patient alone can pay for
the plan to its end, an individual privacy filter (Feldman and Zrnic 2021, arXiv:2008.11193). What
counts is what the patient has paid, what every other running plan of the patient may still charge,
and what this plan may still charge; and the number of plans, because the delta set aside for
samples that are too large suffices for a limited number (:mod:`common.privacy.cap`). All other
patients are left out, and nothing outside shows it. Whether one patient is there changes nothing
for another.

A part never holds more than the plan's ``most_patients``, on which the cap on samples rests. It is
a public number that the hospital promises not to exceed. If it does, those beyond, by pseudonym,
are left out, and ``status`` tells the administrator. One more patient can then push out another,
and the guarantee is that of two patients.

*Leaving*, before each round: a patient whose images or label changed since that day or are missing,
or who opted out. The patient pays what was charged until then, and nothing after. What was
reserved for the rest of the plan is free again.

Times are lengths of the ledger, so nothing here depends on a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from client.data.cohort import Cohort, Patient
from client.records.accounts import STILL, Accounts, History, Part, PrivacyLimits, joined
from client.records.figures import cost_of_plan, is_single, paid_and_ahead
from client.records.store import SiteDatabase
from common.files import canonical_json, sha256
from common.plan import Plan
from common.privacy.cap import MOST_STUDIES
from common.privacy.mechanisms import PatientMechanism

OPTED_OUT: Final = "opted out"
GONE: Final = "images or label missing"
CHANGED: Final = "images or label changed"
MOVED: Final = "moved to another part"
UNPAID: Final = "privacy budget used up"


class FrozenPatient(NamedTuple):
    """A patient's part, and the digest of the patient's frozen record. Sensitive."""

    part: Literal["train", "validation", "test"]
    digest: str

    def __repr__(self) -> str:
        return "FrozenPatient(<masked>)"


@dataclass(frozen=True)
class Draft:
    """A plan's cohort as it would be frozen now. Sensitive; it never leaves the hospital.

    Attributes:
        places: by pseudonym, of the patients who would be in.
        left_out: pseudonyms of those who cannot pay for the whole plan.
        before: epsilon that the most charged of those who pay has spent on all studies so far,
            as counted for the policy's total.
        after: the same when every running plan, and this one, is over.
        crowded: for each part with more than the plan's ``most_patients``, how many it has; those
            beyond are neither in ``places`` nor in ``left_out``.
    """

    places: dict[str, FrozenPatient] = field(repr=False)
    left_out: frozenset[str] = field(repr=False)
    before: float
    after: float
    crowded: Mapping[str, int] = field(default_factory=dict, repr=False)

    def count(self, part: str) -> int:
        """How many would be in a part."""
        return sum(place.part == part for place in self.places.values())


def places(cohort: Cohort) -> dict[str, FrozenPatient]:
    """Part and digest of each patient of a cohort, by pseudonym."""
    part_of = cohort.split.part_of
    return {
        each.pseudonym: FrozenPatient(part_of(each.pseudonym), each.digest)
        for each in cohort.patients
    }


def draft(
    accounts: Accounts, plan: Plan, today: Mapping[str, FrozenPatient], limits: PrivacyLimits
) -> Draft:
    """Which of today's patients would be in a plan; test patients pay nothing and always are.

    Without a privacy mechanism, which the policy must allow, there is no limit to keep.
    """
    # Patients with the same stays and part cost the same: each case is judged once, so a large
    # cohort needs only a few accounts.
    crowded, today = _crowded(today, plan), _within(today, plan.most_patients)
    let_in: dict[str, FrozenPatient] = {}
    left_out: set[str] = set()
    judged: dict[tuple[History, Part], tuple[float, float, float, int]] = {}
    private, before, after = isinstance(plan.mechanism, PatientMechanism), 0.0, 0.0
    known_as = Counter(map(accounts.person, today))
    for patient, place in today.items():
        if private and place.part != "test" and known_as[accounts.person(patient)] > 1:
            # One person twice: joined before, but no longer in the list of persons.
            left_out.add(patient)
            continue
        # Nothing is ever released about test patients, so they pay nothing.
        if place.part != "test":
            key = accounts.history(patient), place.part
            if key not in judged:
                here = cost_of_plan(accounts, plan, *key)
                others = accounts.studies(key[0], without=plan.hash)
                judged[key] = *paid_and_ahead(accounts, plan, *key, limits), here, others
            spent, ahead, here, others = judged[key]
            # Both limits are asked now, for the whole plan: no later round has to ask again, so
            # none can stop because one patient's account is empty, which would show outside.
            too_dear = ahead > limits.epsilon_total or here > limits.epsilon_per_study
            if private and (too_dear or others >= MOST_STUDIES):
                left_out.add(patient)
                continue
            before, after = max(before, spent), max(after, ahead)
        let_in[patient] = place
    return Draft(let_in, frozenset(left_out), before, after, crowded)


def _within(today: Mapping[str, FrozenPatient], most: int) -> dict[str, FrozenPatient]:
    """The first patients of each charged part by pseudonym, up to the plan's bound."""
    seen: Counter[str] = Counter()
    kept = {}
    for patient in sorted(today):  # by keyed hash: a random order that nobody can choose
        place = today[patient]
        seen[place.part] += 1
        if place.part == "test" or seen[place.part] <= most:
            kept[patient] = place
    return kept


def _crowded(today: Mapping[str, FrozenPatient], plan: Plan) -> dict[str, int]:
    held = Counter(place.part for place in today.values() if place.part != "test")
    return {part: count for part, count in held.items() if count > plan.most_patients}


def freeze(store: SiteDatabase, plan_hash: str, drafted: Draft, absent: Collection[str]) -> None:
    """Replace a plan's cohort by a draft; call it in a transaction.

    A patient who stays keeps the first ``since``. Charges already paid stay paid.
    """
    length = _length(store)
    present = _present(store, plan_hash)
    staying = _depart(store, plan_hash, present, drafted.places, absent, drafted.left_out)
    # A stay without a charge in between paid nothing: no need to remember the patient.
    store.execute("DELETE FROM members WHERE plan_hash = ? AND until = since", plan_hash)
    store.execute_each(
        "INSERT INTO members (plan_hash, patient, part, digest, since) VALUES (?, ?, ?, ?, ?)",
        (
            (plan_hash, patient, place.part, place.digest, length)
            for patient, place in drafted.places.items()
            if patient not in staying and patient not in absent
        ),
    )


def members(store: SiteDatabase, plan_hash: str) -> dict[str, str]:
    """Digests of the records that are in a plan's charged parts now, by pseudonym. Sensitive."""
    present = _present(store, plan_hash).items()
    return {patient: place.digest for patient, place in present if place.part != "test"}


def overdrawn(
    store: SiteDatabase, plan: Plan, running: Iterable[Plan], limits: PrivacyLimits
) -> frozenset[str]:
    """The patients of a plan who cannot pay for the rest of it because they were joined later.

    Only joined ones can be: for each identifier the rest of the plan was reserved when it joined.
    """
    people = joined(store)
    if not people or not isinstance(plan.mechanism, PatientMechanism):
        return frozenset()
    accounts = Accounts(store, running)
    there = _present(store, plan.hash).keys() & people.keys()
    histories = {each: accounts.history(each) for each in there}
    # Each history is judged once: a rule about leading zeros may join every patient there is.
    empty = {
        history
        for history in set(histories.values())
        if accounts.studies(history, without="") > MOST_STUDIES
        or (
            limits.spent(accounts.paid(history) + accounts.reserved(history, without=""))
            > limits.epsilon_total
            and not _stands_alone(accounts, history)
        )
    }
    return frozenset(patient for patient, history in histories.items() if history in empty)


def _stands_alone(accounts: Accounts, history: History) -> bool:
    """Whether a single stay in one part of one plan is all there is: its own epsilon counts."""
    places = accounts.places(history) | {stay[:2] for stay in history if stay.until == STILL}
    return len(places) == 1 and is_single(history)


def depart(
    store: SiteDatabase,
    plan_hash: str,
    today: Mapping[str, FrozenPatient],
    absent: Collection[str],
    unpaid: Collection[str] = (),
) -> int:
    """Remove patients from a plan who are not in it any more, permanently; gives how many.

    Args:
        store: an open store.
        plan_hash: which plan.
        today: the site's patients of this moment.
        absent: pseudonyms of those who opted out.
        unpaid: pseudonyms of those who cannot pay any more.
    """
    with store.transaction():
        present = _present(store, plan_hash)
        return len(present) - len(_depart(store, plan_hash, present, today, absent, unpaid))


def leavers(
    store: SiteDatabase, plan_hash: str, today: Mapping[str, FrozenPatient], absent: Collection[str]
) -> bool:
    """Whether :func:`depart` would remove a patient."""
    return any(
        _why(patient, place, today, absent) for patient, place in _present(store, plan_hash).items()
    )


def take_out(
    store: SiteDatabase, patients: Collection[str], plans: Iterable[str]
) -> tuple[str, ...]:
    """Remove patients who opted out from plans; gives the plans that had one."""
    held = []
    with store.transaction():
        length = _length(store)
        for plan_hash in plans:
            there = _present(store, plan_hash).keys() & set(patients)
            if there:
                held.append(plan_hash)
                _end(store, plan_hash, length, ((OPTED_OUT, patient) for patient in there))
    return tuple(held)


def paying_members(
    store: SiteDatabase, plan_hash: str, cohort: Cohort, part: Part, charge: str
) -> tuple[Patient, ...]:
    """The patients of a part who are in a plan now and pay a charge, in the cohort's order.

    A patient who came after a charge was reserved does not pay it, and so is not in its round,
    even if the round is computed only now, after a crash.

    Args:
        store: an open store.
        plan_hash: which plan.
        cohort: of today.
        part: of the charge.
        charge: identity of the charge that was reserved.
    """
    # Also by digest: a record that changed since the freezing is another one, which never joined.
    row = store.execute("SELECT length FROM charges WHERE identity = ?", charge).fetchone()
    payers = {
        (each["patient"], each["digest"])
        for each in store.execute(
            "SELECT patient, digest FROM members WHERE plan_hash = ? AND part = ?"
            " AND until IS NULL AND since < ?",
            plan_hash,
            part,
            row["length"],
        )
    }
    return tuple(
        patient for patient in cohort.part(part) if (patient.pseudonym, patient.digest) in payers
    )


def fingerprint(patients: Iterable[Patient], part: Part) -> str:
    """A hash over the patients in a part of a cohort and their records; it never leaves the site.

    Noise is keyed to it, so that the same noise is never added for other patients: the difference
    of two such sums would be free of noise.
    """
    # Sorted: the order of files on the disk must not change the noise of a repeated round.
    frozen = sorted([each.pseudonym, each.digest] for each in patients)
    return sha256(canonical_json(["consilium/cohort/2", part, frozen]))


def departures(store: SiteDatabase, plan_hash: str) -> Counter[str]:
    """How many have left a plan, by reason; it never leaves the site."""
    rows = store.execute(
        "SELECT why, count(*) FROM members WHERE plan_hash = ? AND until IS NOT NULL GROUP BY why",
        plan_hash,
    )
    return Counter(dict(map(tuple, rows)))


def departures_in_words(departed: Counter[str]) -> str:
    """Departures in words: how many for which reason; empty for none."""
    return ", ".join(f"{count} {why}" for why, count in sorted(departed.items()))


def is_known(store: SiteDatabase, pseudonym: str) -> bool:
    """Whether a patient is or was in any cohort that was frozen."""
    found = store.execute("SELECT 1 FROM members WHERE patient = ? LIMIT 1", pseudonym)
    return found.fetchone() is not None


def forget(store: SiteDatabase, plan_hash: str) -> bool:
    """Delete a plan's cohort; False, and nothing is deleted, if anything was charged."""
    if store.execute("SELECT 1 FROM charges WHERE plan_hash = ?", plan_hash).fetchone():
        return False
    store.execute("DELETE FROM members WHERE plan_hash = ?", plan_hash)
    return True


def _present(store: SiteDatabase, plan_hash: str) -> dict[str, FrozenPatient]:
    rows = store.execute(
        "SELECT patient, part, digest FROM members WHERE plan_hash = ? AND until IS NULL",
        plan_hash,
    )
    return {patient: FrozenPatient(part, digest) for patient, part, digest in rows}


def _depart(  # noqa: PLR0917 - what is looked at for each patient
    store: SiteDatabase,
    plan_hash: str,
    present: Mapping[str, FrozenPatient],
    today: Mapping[str, FrozenPatient],
    absent: Collection[str],
    unpaid: Collection[str] = (),
) -> set[str]:
    """Remove each patient who changed, left or cannot pay; gives those who stay."""
    why = {each: _why(each, place, today, absent, unpaid) for each, place in present.items()}
    leaving = [(reason, each) for each, reason in why.items() if reason]
    if leaving:
        _end(store, plan_hash, _length(store), leaving)
    return {each for each, reason in why.items() if not reason}


def _why(
    patient: str,
    frozen: FrozenPatient,
    today: Mapping[str, FrozenPatient],
    absent: Collection[str],
    unpaid: Collection[str] = (),
) -> str:
    """Why a patient leaves; empty for one who stays."""
    now = today.get(patient)
    if patient in absent:
        return OPTED_OUT
    if patient in unpaid:
        return UNPAID
    if now is None:
        return GONE
    if now.part != frozen.part:
        return MOVED
    return "" if now == frozen else CHANGED


def _end(
    store: SiteDatabase, plan_hash: str, length: int, leaving: Iterable[tuple[str, str]]
) -> None:
    store.execute_each(
        f"UPDATE members SET until = {length:d}, why = ? WHERE plan_hash = '{plan_hash}'"  # noqa: S608 - a number and a hash of ours
        " AND patient = ? AND until IS NULL",
        leaving,
    )


def _length(store: SiteDatabase) -> int:
    (length,) = store.execute("SELECT coalesce(max(length), 0) FROM charges").fetchone()
    return int(length)
