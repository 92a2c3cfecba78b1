"""A siege: ``python -m tests.siege [--minutes 10] [--out FOLDER] [--seed N]``.

A dishonest coordinator, hospital and stranger go through their scripts, over and over, in an order
that the seed decides, against real daemons; meanwhile honest hospitals run study after study.
At the end: every study completed, no process of a daemon has ended, none took more memory than it
may, every move is to be found in a log, and every hospital's log verifies. Prints what was seen as
one line of JSON; exits with 1 where something of it does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.hostile.network import Attacker, attack
from tests.siege.coordinator import script
from tests.siege.ground import MOST_MEMORY, Seen, Town, Watch, town
from tests.siege.hospital import SCRIPT as OF_HOSPITAL
from tests.siege.hospital import SPOILS
from tests.siege.move import Move
from tests.siege.stranger import SCRIPT as OF_STRANGER
from tests.siege.stranger import Stranger

Who = TypeVar("Who")
FEWEST: Final = 30
"""Moves of a script."""
MOST_MORE: Final = 20
"""Studies more, until each reply was spoiled once."""


@dataclass
class Campaign:
    """What one of the three has done.

    Attributes:
        done: how often each move was made.
        failed: what went otherwise than it should, and in which move.
    """

    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def wage(
        self, who: Who, moves: Sequence[Move[Who]], until: Callable[[], bool], seed: int
    ) -> None:
        """Go through a script again and again; each time in another order, and once at least."""
        draw = random.Random(seed)
        while True:
            for move in draw.sample(list(moves), len(moves)):
                if until() and len(self.done) == len(moves):
                    return
                if until() and self.done[move.name]:
                    continue
                self.done[move.name] += 1
                try:
                    move.do(who)
                except Exception:  # noqa: BLE001 - whatever it is, it is told at the end
                    self.failed.append(f"{move.name}: {traceback.format_exc(limit=-2)}")


def besiege(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Wage all three for a while; gives what was seen, with what does not hold."""
    study = _study()
    with ExitStack() as stack:
        place = stack.enter_context(town(folder, study))
        attacker = stack.enter_context(attack(folder / "victim"))
        seen = {name: Seen(process.pid) for name, process in place.daemons.items()}
        seen["coordinator"] = Seen(place.coordinator)
        seen["victim"] = Seen(attacker.daemon.process.pid)
        deadline = time.monotonic() + 60 * minutes
        over = lambda: time.monotonic() > deadline  # noqa: E731 - a clock
        stranger = Stranger(place.hospital.card)
        wars = {
            "coordinator": (attacker, script()),
            "hospital": (place.hospital, OF_HOSPITAL),
            "stranger": (stranger, OF_STRANGER),
        }
        campaigns = {name: Campaign() for name in wars}
        begun = len(place.logged)
        with Watch(seen).watching():
            threads = [
                threading.Thread(target=campaigns[name].wage, args=(*war, over, seed + number))
                for number, (name, war) in enumerate(wars.items())
            ]
            for thread in threads:
                thread.start()
            faults = _studies(place, threads)
            for thread in threads:
                thread.join()
            faults += _unspoiled(place)
            place.hospital.spoils.clear()
            faults += _studies(place, [], once=True)  # nobody is shut out afterwards
        faults += _verdict(place, attacker, seen, campaigns, wars, place.logged[begun:])
    return {
        "name": "siege",
        "minutes": minutes,
        "moves": {name: sum(each.done.values()) for name, each in campaigns.items()},
        "kinds": {name: len(each.done) for name, each in campaigns.items()},
        "studies": len(place.studies),
        "memory_mib": {name: each.most for name, each in seen.items()},
        "faults": faults,
    }


def _studies(place: Town, threads: list[threading.Thread], *, once: bool = False) -> list[str]:
    faults = []
    while once or any(thread.is_alive() for thread in threads):
        try:
            place.run_study()
            sys.stderr.write(f"  study {len(place.studies)} completed\n")
        except Exception as error:  # noqa: BLE001 - told at the end
            faults.append(f"a study of the honest did not complete: {error}")
            place.studies.append("failed")
        if once:
            break
    return faults


def _unspoiled(place: Town) -> list[str]:
    """Wait until each spoiled reply was sent once: it takes as many studies as it takes."""
    wanted = {move.name for move in SPOILS}
    for _ in range(MOST_MORE):
        if not wanted - place.hospital.spoiled.keys():
            return []
        for move in SPOILS:
            if move.name not in place.hospital.spoiled:
                move.do(place.hospital)
        _studies(place, [], once=True)
    return [f"hospital: was never asked for: {wanted - place.hospital.spoiled.keys()}"]


def _verdict(  # noqa: PLR0917 - all that was seen
    place: Town,
    attacker: Attacker,
    seen: dict[str, Seen],
    campaigns: dict[str, Campaign],
    wars: dict[str, Any],
    logged: list[dict[str, Any]],
) -> list[str]:
    faults = [
        f"{who}: {failed}" for who, campaign in campaigns.items() for failed in campaign.failed
    ]
    for name, daemon in seen.items():
        faults += [f"{name}: a process ended: {module}" for module in daemon.gone]
        faults += [
            f"{name}: {module} held {most} MiB"
            for module, most in daemon.most.items()
            if most > MOST_MEMORY
        ]
    said = {str(line.get("reason", line["event"])) for line in logged}
    said |= {str(line["event"]) for line in logged}
    at_site = {str(line["event"]) for line in attacker.daemon.audited}
    for who, (_, moves) in wars.items():
        log = at_site if who == "coordinator" else said
        faults += [
            f"{who}: no trace of: {move.name}" for move in moves if not log & set(move.traces)
        ]
        if len(moves) < FEWEST:
            faults.append(f"{who}: {len(moves)} moves are no script")
    try:
        place.verify()
        attacker.daemon.command("audit", "verify")
    except Exception as error:  # noqa: BLE001 - told
        faults.append(f"a log does not verify: {error}")
    return faults


def _study() -> dict[str, Any]:
    return {
        "study": {"name": "siege", "title": "Under siege"},
        "task": {"kind": "classification", "classes": ["normal", "pneumonia"]},
        "data": {"dataset": "chest-xray", "modalities": ["CR", "DX"], "min_patients": 10,
                 "image_size": [32, 32], "channels": 1},
        "model": {"name": "scattering"},
        "training": {"rounds": 5, "local_steps": 2, "batch_size": 30, "learning_rate": 1.0},
        "privacy": {"mode": "patient", "epsilon": 1.0, "delta": 1e-5},
        "evaluation": {"rounds": "last", "bins": 10, "epsilon_share": 1.0},
        "aggregation": {"min_sites": 2, "round_timeout": "30s"},
    }  # fmt: skip


def main() -> int:
    """Besiege, and say what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.siege", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="new folder for the daemons; by default temporary")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="consilium-siege-") as temporary:
        found = besiege(told.out or Path(temporary), told.minutes, told.seed)
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
