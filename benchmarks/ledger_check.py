"""What a site's ledger costs a round, after 1,000 rounds of each of several studies.

The check of a round comes between a request and the first gradient: the ledger is the newest, the
round is next, patients who have left the cohort are removed, and the round's cost fits the plan and
is reserved durably. It is measured in a process that has just opened the store, as a site does
after a restart, and again when that process continues. Most patients are in several studies. The
peer composes the privacy losses of the whole ledger, as each round would have to if nothing
were kept.

Exits with 1 where a check takes more than 20 ms: the median, or the first after a restart.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

STUDIES: Final = 4
ROUNDS: Final = 1000
PATIENTS: Final = 2000
CHECKS: Final = 25
MOST: Final = 20.0
STUDY: Final[dict[str, Any]] = {
    "study": {"name": "ledger", "title": "to be replaced"},
    "task": {"classes": ["no", "yes"]},
    "data": {"dataset": "none", "modalities": ["DX"], "image_size": [28, 28]},
    "model": {"name": "cnn"},
    "training": {
        "rounds": ROUNDS + CHECKS,
        "local_steps": 2,
        "batch_size": 64,
        "learning_rate": 0.1,
    },
    "privacy": {"mode": "patient", "epsilon": 1.0, "delta": 1e-5},
    "evaluation": {"rounds": [ROUNDS]},
}


def plans() -> list[Any]:
    """The plans of the studies, which differ in their batches and so in their noise."""
    from common.numerics import EngineChoice, record
    from common.plan import Offer, write_plan
    from common.study.study_file import Study

    offer = Offer(
        site="north",
        public_key="ab" * 32,
        declared_patients=PATIENTS,
        most_patients=2 * PATIENTS,
        known_key=False,
        numerics=record(1, EngineChoice()),
    )
    made = []
    for number in range(STUDIES):
        sections = STUDY | {
            "study": {"name": "ledger", "title": f"Study {number}"},
            "training": STUDY["training"] | {"batch_size": 64 + 16 * number},
        }
        made.append(write_plan(Study.model_validate(sections), offer, 1000))
    return made


def charge(plan: Any, number: int) -> Any:  # noqa: ANN401 - imported late, as all of a site
    """The charge of a round of training."""
    from client.records.ledger import Charge
    from common.files import sha256

    event = plan.mechanism.step.model_copy(update={"count": plan.study.training.local_steps})
    identity = sha256(f"{plan.hash} {number}".encode())
    return Charge(plan.hash, number, "train", identity, event)


def limits() -> Any:  # noqa: ANN401 - as above
    """A policy that lets all the studies run."""
    from client.records.accounts import PrivacyLimits

    return PrivacyLimits(epsilon_per_study=1.0, epsilon_total=6.0, delta=1e-5)


def today(members: list[str]) -> Any:  # noqa: ANN401 - as above
    """Where patients stand: one in five evaluates."""
    from client.records.membership import FrozenPatient

    return {one: FrozenPatient("train" if int(one) % 5 else "validation", one) for one in members}


def fill(path: Path) -> None:
    """Approve the studies, each patient in one of them to all, and run their rounds."""
    from client.records.accounts import Accounts
    from client.records.approvals import Approvals
    from client.records.ledger import Ledger
    from client.records.membership import draft, freeze
    from client.records.store import SiteDatabase
    from common.privacy.randomness import StudyKey

    with SiteDatabase(path) as store:
        ledger = Ledger(store)
        store.execute("PRAGMA synchronous = OFF")
        for place, plan in enumerate(plans()):
            members = [str(patient) for patient in range(PATIENTS) if patient >> place & 1]
            members += [str(patient) for patient in range(PATIENTS // 4)]
            with store.transaction():
                Approvals(store).add(plan, StudyKey(bytes(32)))
                running = [each.plan for each in Approvals(store).running()]
                drafted = draft(Accounts(store, running), plan, today(members), limits())
                freeze(store, plan.hash, drafted, ())
            for number in range(1, ROUNDS + 1):
                ledger.reserve(charge(plan, number), plan)


def milliseconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def check(path: Path) -> list[float]:
    """Milliseconds of each of several rounds' checks in a store that was just opened."""
    from client.records.ledger import Ledger
    from client.records.membership import depart
    from client.records.store import SiteDatabase

    plan, store, taken = plans()[0], SiteDatabase(path), []
    ledger, there = Ledger(store), today([str(patient) for patient in range(PATIENTS)])

    def one(number: int) -> None:
        ledger.require(ledger.head())
        assert ledger.last_round(plan.hash, "train") == number - 1
        assert not ledger.is_committed(charge(plan, number).identity)
        with store.transaction():
            assert not depart(store, plan.hash, there, ())
            ledger.reserve(charge(plan, number), plan)

    for number in range(ROUNDS + 1, ROUNDS + CHECKS + 1):
        taken.append(milliseconds(partial(one, number)))
    store.close()
    return taken


def recompute() -> float:
    """Milliseconds to compose the privacy losses of all that the ledger holds."""
    from common.privacy.accounting import epsilon

    events = tuple((plan.mechanism.step, 2 * ROUNDS) for plan in plans())
    return milliseconds(lambda: epsilon.__wrapped__(events, 1e-5))


def measured(what: str, path: Path) -> list[float]:
    """One measurement in a fresh process, whose caches are empty."""
    command = [sys.executable, "-m", "benchmarks.ledger_check", what, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(number) for number in json.loads(done.stdout)]


def main() -> int:
    """Print one line of JSON for the first check after a restart and one for the others."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.sqlite"
        fill(path)
        (peer,) = measured("recompute", path)
        first, *others = measured("check", path)
    worst = 0.0
    for name, ours in (("first after a restart", first), ("median", statistics.median(others))):
        result = {
            "name": f"ledger check of a round, {name}, after {ROUNDS} rounds of each of {STUDIES} "
            f"studies, {PATIENTS} patients; peer: privacy losses composed again",
            "ours": round(ours, 2),
            "peer": round(peer, 2),
            "ratio": round(ours / peer, 4),
            "unit": "ms",
        }
        print(json.dumps(result), flush=True)
        worst = max(worst, ours)
    return int(worst > MOST)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", path]:
            print(json.dumps(check(Path(path))))
        case ["recompute", _]:
            print(json.dumps([recompute()]))
        case _:
            sys.exit(main())
