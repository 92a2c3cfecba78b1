"""What waiting costs, in CPU time, with the daemons as their users start them.

A coordinator's ``serve`` with 32 admitted and connected sites and no study, every process of
it: supervisor, gateway and store, SuperLink. One of the sites is a hospital's ``serve``, whose
processes are measured too; the others connect from a process that is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.network.coordinator import CARD, key_file
from benchmarks.network.ours import cpu_seconds
from benchmarks.network_round import say
from client.node_key import load_node_key, public_node_key
from common.process import logs
from common.process.claim import LOCK
from common.process.progress import silent
from common.wire.enrolment import SiteCard
from common.wire.signing import SigningKey
from simulations.archives.manifest import read_hospitals
from simulations.hospitals.synth import Size, write_synthetic
from simulations.runs.network import (
    NetworkSettings,
    coordinate,
    exchange_cards,
    serve_coordinator,
    serve_site,
)

SITES: Final = 32
SETTLE_SECONDS: Final = 20.0
SECONDS: Final = 60.0
MOST_OF_A_CORE: Final = {"coordinator": 0.10, "site": 0.01}


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    listing = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        check=True,
    )
    parents = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    found = [root]
    for pid in found:
        found += [child for child, parent in parents if parent == pid]
    return found


def admit_stand_ins(settings: NetworkSettings, count: int) -> None:
    """Make keys and cards of sites that only connect, and let them in."""
    for number in range(count):
        node = load_node_key(key_file(settings.out, number), make=True)
        signing = SigningKey(os.urandom(32)).public
        card = SiteCard(name=f"idle-{number}", node_key=public_node_key(node), signing_key=signing)
        path = settings.out / "SITE.json"
        path.write_text(card.text)
        coordinate(settings, "admit", str(path))
    (settings.out / "COORDINATOR.json").rename(settings.out / CARD)


def measure(ground: Path) -> dict[str, float]:
    """Parts of a core: of the coordinator, and of one site."""
    settings = NetworkSettings(Path(), ground / "hospitals", ground / "network")
    settings.logs.mkdir(parents=True)
    size = Size(patients=20, test_patients=12, pixels=32, sites=1)
    write_synthetic(settings.hospitals, size, seed=0, progress=silent)
    (name,) = read_hospitals(settings.hospitals).sites
    file = read_hospitals(settings.hospitals).site_file(name)
    with ExitStack() as stack:
        serve_coordinator(settings, stack, lambda _: None)
        exchange_cards(settings, file)
        site = serve_site(settings, name, file, stack)
        admit_stand_ins(settings, SITES - 1)
        others = [sys.executable, "-m", "benchmarks.network.site", str(settings.out)]
        process = stack.enter_context(
            subprocess.Popen(
                [*others, *map(str, range(SITES - 1))], stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        for _ in range(SITES - 1):
            assert process.stdout.readline().startswith("connected")
        time.sleep(SETTLE_SECONDS)
        coordinator = int((settings.coordinator / "state" / LOCK).read_text())
        watched = {"coordinator": tree(coordinator), "site": tree(site.pid)}
        begun = time.monotonic()
        before = {who: cpu_seconds(*pids) for who, pids in watched.items()}
        time.sleep(SECONDS)
        passed = time.monotonic() - begun
        return {who: (cpu_seconds(*pids) - before[who]) / passed for who, pids in watched.items()}


def main() -> int:
    """Print a line of JSON for each; 1 if one takes more than is claimed."""
    logs.configure(level="warning")
    with tempfile.TemporaryDirectory() as ground:
        found = measure(Path(ground))
    names = {
        "coordinator": f"a coordinator's daemon with {SITES} idle sites; peer: the most claimed",
        "site": "an idle site's daemon, all processes; peer: the most claimed",
    }
    for who, name in names.items():
        say(name, found[who], MOST_OF_A_CORE[who], "cores")
    return int(any(found[who] > most for who, most in MOST_OF_A_CORE.items()))


if __name__ == "__main__":
    sys.exit(main())
