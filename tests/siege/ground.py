"""Real daemons to be besieged, and what is seen of them: processes, memory, logs, studies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common.process.progress import silent
from simulations.archives.manifest import read_hospitals
from simulations.runs.network import (
    NetworkSettings,
    call,
    coordinate,
    exchange_cards,
    serve_coordinator,
    serve_site,
    start_afresh,
)
from tests.common.studies import toml
from tests.siege.hospital import Hospital

MOST_MEMORY: Final = 1500
"""MiB that any process of a daemon may hold at once."""
LASTING: Final = (
    *("client.cli.app", "client.daemon.worker", "client.daemon.connection"),
    *("server.cli.app", "server.superlink.launcher"),
)
"""What the processes run that must not end; the others' end with a study, or with one file."""
SEED: Final = 0


@dataclass
class Seen:
    """What was seen of one daemon's processes.

    Attributes:
        pid: of the daemon.
        most: MiB that each of its processes held at most, by the module that it runs.
        gone: modules of :data:`LASTING` whose process ended.
    """

    pid: int
    most: dict[str, int] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    _known: dict[int, str] = field(default_factory=dict)

    def look(self) -> None:
        """Look at the processes as they are now."""
        present = dict(_tree(self.pid))
        for pid, module in self._known.items():
            if pid not in present and module in LASTING:
                self.gone.append(module)
        self._known = present
        for pid, module in present.items():
            self.most[module] = max(self.most.get(module, 0), _resident(pid))


@dataclass
class Watch:
    """Looks at daemons once a second, in a thread."""

    seen: dict[str, Seen]
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block lasts."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            for each in self.seen.values():
                each.look()


@dataclass
class Town:
    """An honest coordinator, two honest hospitals, and a third which is not."""

    settings: NetworkSettings
    study: dict[str, Any]
    coordinator: int
    daemons: dict[str, subprocess.Popen[bytes]]
    hospital: Hospital
    studies: list[str] = field(default_factory=list)

    @property
    def logged(self) -> list[dict[str, Any]]:
        """What the coordinator's processes have logged."""
        lines = (self.settings.logs / "coordinator.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def run_study(self) -> None:
        """One study of the honest, from its start to its end.

        Raises:
            LinkError: it did not complete.
        """
        name = f"siege-{len(self.studies) + 1}"
        self.study["study"]["name"] = name
        file = self.settings.out / f"{name}.toml"
        file.write_text(toml(self.study))
        coordinate(self.settings, "start", str(file), "--seed", str(SEED))
        coordinate(self.settings, "watch", name)
        self.studies.append(name)

    def verify(self) -> None:
        """Let each honest hospital verify its own log.

        Raises:
            LinkError: one does not hold.
        """
        hospitals = read_hospitals(self.settings.hospitals)
        for name in hospitals.sites[:2]:
            site = ["-m", "client.cli.app", "--site", str(hospitals.site_file(name))]
            call([sys.executable, *site, "audit", "verify"])


@contextmanager
def town(folder: Path, study: dict[str, Any]) -> Iterator[Town]:
    """Found the town: a network of three hospitals, of which one is not served by a daemon."""
    settings = NetworkSettings(
        folder / "study.toml", folder / "hospitals", folder / "network", SEED
    )
    start_afresh(settings, silent)
    settings.logs.mkdir(parents=True)
    hospitals = read_hospitals(settings.hospitals)
    with ExitStack() as stack:
        serve_coordinator(settings, stack, lambda _: None)
        daemons = {}
        for name in hospitals.sites:
            exchange_cards(settings, hospitals.site_file(name))
        for name in hospitals.sites[:2]:
            daemons[name] = serve_site(settings, name, hospitals.site_file(name), stack)
        hospital = Hospital(hospitals.site_file(hospitals.sites[2]), SEED)
        hospital.start()
        stack.callback(hospital.end)
        yield Town(settings, study, _child("server.cli.app"), daemons, hospital)


def _child(module: str) -> int:
    """The process that this one has started to run a module."""
    mine = (pid for pid, parent in _parents() if parent == os.getpid())
    return next(pid for pid in mine if _module(pid) == module)


def _tree(root: int) -> Iterator[tuple[int, str]]:
    """A process and its descendants, with the module that each runs."""
    parents = dict(_parents())
    for pid in parents:
        above = pid
        while above not in (root, 0, 1) and above in parents:
            above = parents[above]
        if above == root:
            yield pid, _module(pid)


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except OSError:
                continue
            if state != "Z":
                yield int(entry.name), int(parent)


def _module(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return "ended"
    if "-m" in words:
        return words[words.index("-m") + 1]
    return Path(words[0]).name if words[0] else "ended"


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096 // 2**20
