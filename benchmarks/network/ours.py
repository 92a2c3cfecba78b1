"""A study's side of our link, and the processes on the other side of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.network.coordinator import new_superlink
from common.wire.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from server.daemon.settings import load_home
from server.superlink.grid import FleetGrid
from server.superlink.notifications import NotificationLine
from server.superlink.superlink import SuperLink


@dataclass(frozen=True)
class Link:
    """A coordinator that runs.

    Attributes:
        folder: where it and its sites' keys lie.
        superlink: for a study's process.
        gateway_pid: of the process with the gateway.
        superlink_pid: of the SuperLink.
    """

    folder: Path
    superlink: SuperLink
    gateway_pid: int
    superlink_pid: int

    @contextlib.contextmanager
    def study(self) -> Iterator[FleetGrid]:
        """A run; one a process."""
        line = NotificationLine(load_home(self.folder / "home").notices_socket)
        grid = self.superlink.open_grid(self.superlink.start_run("bench"), line)
        try:
            yield grid
        finally:
            grid.finish()
            grid.close()
            line.close()

    @contextlib.contextmanager
    def sites(self, groups: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Connected sites, a process for each group; gives the processes' numbers."""
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(_child("site", self.folder, *group)) for group in groups
            ]
            for process, group in zip(processes, groups, strict=True):
                assert process.stdout is not None
                for _ in group:
                    assert process.stdout.readline().startswith("connected")
            yield [process.pid for process in processes]


@contextlib.contextmanager
def link(folder: Path, sites: int) -> Iterator[Link]:
    """A coordinator in a process of its own that knows so many sites."""
    with _child("coordinator", folder, sites) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        superlink = new_superlink(load_home(folder / "home"), ready["superlink"])
        yield Link(folder, superlink, process.pid, ready["superlink_pid"])


@contextlib.contextmanager
def _child(module: str, folder: Path, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"benchmarks.network.{module}", str(folder)]
    command += [str(number) for number in numbers]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            if module == "coordinator":
                assert process.stdin is not None
                process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            process.kill()


def exchange(grid: FleetGrid, arrays: Sequence[npt.NDArray[np.float32]]) -> float:
    """Seconds from asking every connected node to holding every answer's arrays."""
    nodes = [node.node_id for node in grid.get_nodes()]
    before = time.perf_counter()
    shared = ArrayRecord({str(number): Array(array) for number, array in enumerate(arrays)})
    requests = [
        Message(
            RecordDict({"arrays": shared, "request": ConfigRecord({"round": 1})}), node, "train"
        )
        for node in nodes
    ]
    waiting = set(grid.push_messages(requests))
    while waiting:
        grid.wait(5.0)
        for message_id in list(waiting):
            for reply in grid.pull_messages([message_id]):
                waiting.discard(message_id)
                received = reply.content.array_records["arrays"]
                assert all(part.numpy().size for part in received.values())
    return time.perf_counter() - before


def cpu_seconds(*processes: int) -> float:
    """CPU time that processes have used so far."""
    total = 0.0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
