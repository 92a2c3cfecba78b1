"""A network on this machine: a coordinator, hospitals' daemons, and one study from end to end.

Everything is started by the commands that its users type, speaks TLS on loopback, and is
compared with a simulation of the same study on the same archives: both must end with the same
weights, to the last bit. The hospitals' keys follow from a seed, which their policies allow, so
that a simulation can have the same; hence nothing here is private, and everything says so.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.data.parallel import Progress
from common.documents import read_json
from common.errors import CheckpointError, LinkError
from common.process.ports import LOOPBACK, free_port
from common.study.study_file import load_study
from simulations.hospitals.archives import Hospitals, read_hospitals
from simulations.hospitals.synth import Size, write_synthetic

MARKER: Final = ".network"
SOCKET: Final = "control.sock"
READY_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class NetworkOrder:
    """What a network is to do.

    Attributes:
        study: study file.
        hospitals: folder with ``hospitals.json``; every hospital becomes a daemon.
        out: new folder for the coordinator, its logs and the simulation.
        seed: what first weights and keys follow from.
    """

    study: Path
    hospitals: Path
    out: Path
    seed: int = 0

    @property
    def coordinator(self) -> Path:
        """The coordinator's home."""
        return self.out / "coordinator"

    @property
    def logs(self) -> Path:
        """What the daemons say, a file each."""
        return self.out / "logs"

    @property
    def result(self) -> Path:
        """What the coordinator hands out at the end."""
        return self.out / "result"

    @property
    def simulation(self) -> Path:
        """The run folder of the simulation."""
        return self.out / "simulation"


@dataclass(frozen=True)
class Comparison:
    """SHA-256 of the last weights of the same study, over the network and simulated."""

    network: str
    simulation: str

    @property
    def same(self) -> bool:
        """Whether they are the same weights."""
        return self.network == self.simulation


def start_afresh(order: NetworkOrder, progress: Progress) -> None:
    """Remove what an earlier start has left, and draw three small hospitals.

    Raises:
        CheckpointError: the folder holds something that no network has written.
        DataError: the hospitals cannot be written.
    """
    marker = order.out / MARKER
    if order.out.exists() and any(order.out.iterdir()) and not marker.exists():
        raise CheckpointError(
            "this folder is not that of a network, so nothing in it was removed",
            where=order.out,
            remedy="take another --out",
        )
    if order.out.exists():
        shutil.rmtree(order.out)
    order.out.mkdir(parents=True)
    marker.write_text("consilium-sim network has written this folder and removes it again\n")
    size = Size(patients=120, test_patients=60, pixels=32, sites=3)
    write_synthetic(order.hospitals, size, seed=order.seed, progress=progress)


def run_network(order: NetworkOrder, say: Say) -> Comparison:
    """Enrol the hospitals, run the study over the network, simulate it, and compare.

    Raises:
        LinkError: a daemon or a command failed; names its log.
        ConsiliumError: the study or the hospitals cannot be used.
    """
    load_study(order.study)
    hospitals = read_hospitals(order.hospitals)
    order.logs.mkdir(parents=True)
    with ExitStack() as stack:
        enrol(order, hospitals, stack, say)
        name = load_study(order.study).study.name
        say(f"starting study {name}")
        coordinate(order, "start", str(order.study), "--seed", str(order.seed))
        for line in followed(order, name):
            say(f"  {line}")
        coordinate(order, "result", name, "--out", str(order.result))
    say("simulating the same study on the same archives with the same keys")
    simulate(order)
    return Comparison(_weights(order.result / "outcome.json"), _weights(_simulated(order)))


def enrol(
    order: NetworkOrder, hospitals: Hospitals, stack: ExitStack, say: Say
) -> dict[str, subprocess.Popen[bytes]]:
    """Start a coordinator and a daemon for each hospital.

    Returns:
        The hospitals' daemons by name; the stack ends them.
    """
    serve_coordinator(order, stack, say)
    daemons = {}
    for name in hospitals.sites:
        file = hospitals.site_file(name)
        exchange_cards(order, file)
        daemons[name] = serve_site(order, name, file, stack)
        say(f"{name} has joined")
    return daemons


def serve_coordinator(order: NetworkOrder, stack: ExitStack, say: Say) -> str:
    """Make a coordinator and start it; gives the address that sites reach it by."""
    address = f"{LOOPBACK}:{free_port()}"
    say(f"coordinator on {address}")
    coordinate(order, "init", "network", "--address", address)
    _stay_on_loopback(order.coordinator / "coordinator.toml", address)
    log = order.logs / "coordinator.log"
    process = stack.enter_context(daemon(log, _coordinator(order, "serve")))
    _until_up(process, log, order.coordinator / "state")
    return address


def exchange_cards(order: NetworkOrder, file: Path) -> None:
    """Make a hospital's keys, admit it, and let it join."""
    call(_site(file, "card", "--known-seed", str(order.seed)))
    coordinate(order, "admit", str(file.parent / "SITE.json"))
    call(_site(file, "join", str(file.parent / "COORDINATOR.json"), "--yes"))


def serve_site(
    order: NetworkOrder, name: str, file: Path, stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Start a hospital's daemon."""
    log = order.logs / f"{name}.log"
    command = _site(file, "serve", "--known-seed", str(order.seed))
    process = stack.enter_context(daemon(log, command))
    _until_up(process, log, file.parent / "state")
    return process


def _stay_on_loopback(settings: Path, address: str) -> None:
    """Change what a person would: nobody else is to reach this coordinator."""
    text = settings.read_text(encoding="utf-8")
    port = address.rpartition(":")[2]
    for old, new in ((f"0.0.0.0:{port}", address), ("127.0.0.1:9464", f"{LOOPBACK}:0")):
        text = text.replace(f'"{old}"', f'"{new}"')
    settings.write_text(text, encoding="utf-8")


def coordinate(order: NetworkOrder, *arguments: str) -> str:
    """Run a command of the coordinator; its standard output."""
    return call(_coordinator(order, *arguments))


def call(command: Sequence[str]) -> str:
    """Run a command to its end.

    Raises:
        LinkError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    if done.returncode:
        raise LinkError(
            "a command of the network failed",
            where=" ".join(command[2:]),
            found=f"exit code {done.returncode}\n{done.stderr.strip()}",
        )
    return done.stdout


@contextmanager
def daemon(log: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that writes to a log, and is ended as an init system would end it."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603 - our own commands
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def followed(order: NetworkOrder, study: str) -> Iterator[str]:
    """What ``watch`` says of a study, line by line, until it has ended.

    Raises:
        LinkError: the study did not complete.
    """
    command = _coordinator(order, "watch", study)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:  # noqa: S603 - our own command
        assert watching.stdout is not None
        try:
            yield from (line.rstrip() for line in watching.stdout)
        except BaseException:  # whoever listened has gone: do not wait for the study's end
            watching.kill()
            raise
    if watching.returncode:
        log = order.logs / "coordinator.log"
        raise LinkError("the study did not complete", where=study, remedy=f"read {log}")


def _until_up(process: subprocess.Popen[bytes], log: Path, state: Path) -> None:
    """Wait until a daemon can be asked; its socket is made when it can."""
    deadline = time.monotonic() + READY_SECONDS
    while not (state / SOCKET).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(encoding="utf-8").strip().splitlines()[-5:]
            raise LinkError(
                "a daemon does not answer",
                where=log,
                found="\n          ".join(last) or "nothing was said",
                wanted=f"an answer within {READY_SECONDS:.0f} s",
            )
        time.sleep(0.05)


def simulate(order: NetworkOrder) -> None:
    """Run the same study on the same archives, with the same keys, in one process."""
    call(
        [
            *_module("simulations", "run", str(order.study)),
            *("--hospitals", str(order.hospitals), "--out", str(order.simulation)),
            *("--seed", str(order.seed), "--no-baselines"),
        ]
    )


def _simulated(order: NetworkOrder) -> Path:
    return order.simulation / "coordinator" / "outcome.json"


def _weights(outcome: Path) -> str:
    document: dict[str, Any] = read_json(outcome.read_bytes())
    return str(document["final_weights_sha256"])


def _coordinator(order: NetworkOrder, *arguments: str) -> list[str]:
    return _module("server", "--home", str(order.coordinator), *arguments)


def _site(file: Path, *arguments: str) -> list[str]:
    return _module("client", "--site", str(file), *arguments)


def _module(package: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"{package}.cli.app", *arguments]
