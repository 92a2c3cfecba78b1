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

from common.documents import read_json
from common.errors import CheckpointError, LinkError
from common.process.ports import LOOPBACK, free_port
from common.process.progress import Progress
from common.study.study_file import load_study
from simulations.archives.manifest import Hospitals, read_hospitals
from simulations.hospitals.synth import Size, write_synthetic

MARKER: Final = ".network"
SOCKET: Final = "control.sock"
READY_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class NetworkSettings:
    """What a researcher asks of a network.

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


def start_afresh(settings: NetworkSettings, progress: Progress) -> None:
    """Remove what an earlier start has left, and draw three small hospitals.

    Raises:
        CheckpointError: the folder holds something that no network has written.
        DataError: the hospitals cannot be written.
    """
    marker = settings.out / MARKER
    # A mistyped --out must not delete anyone's files.
    if settings.out.exists() and any(settings.out.iterdir()) and not marker.exists():
        raise CheckpointError(
            "this folder is not from consilium-sim network, so nothing in it was removed",
            where=settings.out,
            remedy="choose another --out",
        )
    if settings.out.exists():
        shutil.rmtree(settings.out)
    settings.out.mkdir(parents=True)
    marker.write_text("consilium-sim network has written this folder and removes it again\n")
    # A fifth is in validation, 120 in all: fewer, and the evaluation says that it is not usable.
    size = Size(patients=200, test_patients=60, pixels=32, sites=3)
    write_synthetic(settings.hospitals, size, seed=settings.seed, progress=progress)


def run_network(settings: NetworkSettings, say: Say) -> Comparison:
    """Enrol the hospitals, run the study over the network, simulate it, and compare.

    Raises:
        LinkError: a daemon or a command failed; names its log.
        ConsiliumError: the study or the hospitals cannot be used.
    """
    name = load_study(settings.study).study.name
    hospitals = read_hospitals(settings.hospitals)
    settings.logs.mkdir(parents=True)
    with ExitStack() as stack:
        enrol(settings, hospitals, stack, say)
        say(f"starting study {name}")
        coordinate(settings, "start", str(settings.study), "--seed", str(settings.seed))
        for line in followed(settings, name):
            say(f"  {line}")
        coordinate(settings, "result", name, "--out", str(settings.result))
    say("simulating the same study on the same archives with the same keys")
    simulate(settings)
    simulated = settings.simulation / "coordinator" / "outcome.json"
    return Comparison(_weights(settings.result / "outcome.json"), _weights(simulated))


def enrol(
    settings: NetworkSettings, hospitals: Hospitals, stack: ExitStack, say: Say
) -> dict[str, subprocess.Popen[bytes]]:
    """Start a coordinator and a daemon for each hospital.

    Returns:
        The hospitals' daemons by name; the stack ends them.
    """
    serve_coordinator(settings, stack, say)
    daemons = {}
    for name in hospitals.sites:
        file = hospitals.site_file(name)
        exchange_cards(settings, file)
        daemons[name] = serve_site(settings, name, file, stack)
        say(f"{name} has joined")
    return daemons


def serve_coordinator(settings: NetworkSettings, stack: ExitStack, say: Say) -> str:
    """Make a coordinator and start it; gives the address that sites reach it by."""
    address = f"{LOOPBACK}:{free_port()}"
    say(f"coordinator on {address}")
    coordinate(settings, "init", "network", "--address", address)
    _stay_on_loopback(settings.coordinator / "coordinator.toml", address)
    log = settings.logs / "coordinator.log"
    process = stack.enter_context(daemon(log, _coordinator(settings, "serve")))
    _until_up(process, log, settings.coordinator / "state")
    return address


def exchange_cards(settings: NetworkSettings, file: Path) -> None:
    """Make a hospital's keys, admit it, and let it join."""
    call(_site(file, "card", "--known-seed", str(settings.seed)))
    coordinate(settings, "admit", str(file.parent / "SITE.json"))
    call(_site(file, "join", str(file.parent / "COORDINATOR.json"), "--yes"))


def serve_site(
    settings: NetworkSettings, name: str, file: Path, stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Start a hospital's daemon."""
    log = settings.logs / f"{name}.log"
    command = _site(file, "serve", "--known-seed", str(settings.seed))
    process = stack.enter_context(daemon(log, command))
    _until_up(process, log, file.parent / "state")
    return process


def _stay_on_loopback(file: Path, address: str) -> None:
    """Bind the coordinator to loopback: no other machine is to reach it."""
    text = file.read_text(encoding="utf-8")
    port = address.rpartition(":")[2]
    # Metrics on any free port: networks can run beside each other on one machine.
    for old, new in ((f"0.0.0.0:{port}", address), ("127.0.0.1:9464", f"{LOOPBACK}:0")):
        text = text.replace(f'"{old}"', f'"{new}"')
    file.write_text(text, encoding="utf-8")


def coordinate(settings: NetworkSettings, *arguments: str) -> str:
    """Run a command of the coordinator; its standard output."""
    return call(_coordinator(settings, *arguments))


def call(command: Sequence[str]) -> str:
    """Run a command to its end.

    Raises:
        LinkError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    if done.returncode:
        raise LinkError(
            "a command failed",
            where=" ".join(command[2:]),
            found=f"exit code {done.returncode}\n{done.stderr.strip()}",
        )
    return done.stdout


@contextmanager
def daemon(log: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that writes to a log, and is ended as an init system would end it."""
    # Appended: a daemon that is killed and started again continues its log.
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603 - our own commands
    try:
        yield process
    finally:
        # As systemd does: asked first, killed after a while.
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def followed(settings: NetworkSettings, study: str) -> Iterator[str]:
    """What ``watch`` says of a study, line by line, until it has ended.

    Raises:
        LinkError: the study did not complete.
    """
    command = _coordinator(settings, "watch", study)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:  # noqa: S603 - our own command
        assert watching.stdout is not None
        try:
            yield from (line.rstrip() for line in watching.stdout)
        except BaseException:  # the listener has gone: do not wait for the study's end
            watching.kill()
            raise
    if watching.returncode:
        log = settings.logs / "coordinator.log"
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
                found="\n          ".join(last) or "the log is empty",
                wanted=f"an answer within {READY_SECONDS:.0f} s",
            )
        time.sleep(0.05)


def simulate(settings: NetworkSettings) -> None:
    """Run the same study on the same archives, with the same keys, in one process."""
    call(
        [
            *_module("simulations", "run", str(settings.study)),
            *("--hospitals", str(settings.hospitals), "--out", str(settings.simulation)),
            *("--seed", str(settings.seed), "--no-baselines"),
        ]
    )


def _weights(outcome: Path) -> str:
    document: dict[str, Any] = read_json(outcome.read_bytes())
    return str(document["final_weights_sha256"])


def _coordinator(settings: NetworkSettings, *arguments: str) -> list[str]:
    return _module("server", "--home", str(settings.coordinator), *arguments)


def _site(file: Path, *arguments: str) -> list[str]:
    return _module("client", "--site", str(file), *arguments)


def _module(package: str, *arguments: str) -> list[str]:
    # This interpreter, whether or not its commands are on the PATH.
    return [sys.executable, "-m", f"{package}.cli.app", *arguments]
