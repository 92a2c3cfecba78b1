"""A coordinator in processes of its own, and sites that answer it from threads of the test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.daemon.fleet import Fleet
from client.node_key import load_node_key, public_node_key
from common.control import coordinator_pb2 as pb
from common.errors import LinkError
from common.process.ports import free_port
from common.wire.enrolment import CoordinatorCard, SiteCard
from common.wire.flower import Context, ErrorCode, Message, context, identify
from server.cli.rpc_client import Caller, calling
from server.daemon import authority
from server.daemon.settings import load_home
from server.store import CoordinatorStore, open_store
from tests.waiting import PATIENCE, until

DATASET = "chest-xray"
"""Of the studies of a World."""
PATIENTS = 300
"""On every card; a site of a World declares fewer."""
ANSWERING = threading.Lock()
"""Flower knows one node a process at a time."""

Client = Callable[[Message, Context], Message]


class Hospital:
    """A site on Flower's fleet protocol: it connects, answers, and connects again.

    Args:
        name: the site's.
        client: what answers.
        key_file: of the node's key; made where there is none.
        signing_key: the public half of what the client signs with.

    Attributes:
        troubles: what ended each connection.
        polled: when its newest poll began (``time.monotonic``).
    """

    def __init__(
        self, name: str, client: Client, key_file: Path, signing_key: str, config: dict[str, str]
    ) -> None:
        self.name = name
        self.key = load_node_key(key_file, make=True)
        self.card = SiteCard(
            name=name,
            node_key=public_node_key(self.key),
            signing_key=signing_key,
            patients={DATASET: PATIENTS},
        )
        self._client = client
        self._config = config
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.troubles: list[str] = []
        self.polled = 0.0

    def open(self, card: CoordinatorCard) -> None:
        """Connect, in a thread, until closed."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._serve, args=(card,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _serve(self, card: CoordinatorCard) -> None:
        while not self._stop.is_set():
            fleet = Fleet(card, self.key)
            try:
                fleet.connect()
                while not self._stop.is_set():
                    self.polled = time.monotonic()
                    message = fleet.pull()
                    if message is not None:
                        reply = self._answer(message, fleet.node_id)
                        if not (
                            reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE
                        ):
                            fleet.push(reply)
            except LinkError as error:
                self.troubles.append(str(error.details.get("found", error.what)))
                self._stop.wait(0.3)
            finally:
                fleet.close()

    def _answer(self, message: Message, node_id: int) -> Message:
        run_id = message.metadata.run_id
        with ANSWERING:
            identify(run_id, node_id)
            return self._client(
                message, context(run_id, node_id, node={"site": self.name, **self._config}, run={})
            )


class Deployment:
    """A coordinator's home, its daemon's processes, and how to ask it.

    Args:
        folder: of the home.
        settings: changes of coordinator.toml, as pairs of what is there and what is to be.
    """

    def __init__(self, folder: Path, *settings: tuple[str, str]) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        authority.init(folder, "demo", self.address)
        file = folder / "coordinator.toml"
        text = file.read_text().replace("127.0.0.1:9464", f"127.0.0.1:{free_port()}")
        for old, new in settings:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
        self.home = load_home(folder)
        self.card = authority.coordinator_card(self.home)
        self.whom = Caller(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "daemon.log"
        self._starts = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> list[dict[str, object]]:
        """What all processes have logged."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, object]]:
        return [entry for entry in self.log if entry["event"] == event]

    def start(self) -> None:
        """Start the daemon, and wait until it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server.cli.app", "--home", str(self.folder), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._starts += 1
        until(self._serves, "the daemon")

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        return len(self.logged("coordinator.ready")) >= self._starts

    def end(self) -> int:
        """End the daemon as systemd does; gives its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE)

    def interrupt(self) -> str:
        """End the daemon as Ctrl-C at its terminal does; gives all that was written there."""
        assert self._process is not None
        os.killpg(self.pid, signal.SIGINT)
        assert self._process.wait(PATIENCE) == 0
        return self._log.read_text()

    def kill(self) -> None:
        """Kill the daemon as a power cut does, with whatever it has started."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        until(lambda: not self.processes("server."), "the end of its children")

    def processes(self, module: str) -> list[int]:
        """Processes of this home that run a module of ours, the daemon itself left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == self.pid:
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if any(word.startswith(module) for word in words) and any(
                str(self.folder) in word for word in words
            ):
                found.append(int(entry.name))
        return found

    def kill_process(self, module: str) -> None:
        for pid in self.processes(module):
            os.kill(pid, signal.SIGKILL)

    def ask(self, method: str, **fields: object) -> object:
        """Ask the daemon over its socket."""
        request = getattr(pb, f"{method}Request")(**fields)
        with calling(self.whom) as daemon:
            answer = getattr(daemon, method)(request)
            return list(answer) if method in {"Watch", "Result"} else answer

    def admit(self, *hospitals: Hospital) -> None:
        for hospital in hospitals:
            self.ask("Admit", card=hospital.card.text)

    def row(self, study: str) -> pb.StudyRow:
        """How a study stands."""
        rows: list[pb.StudyRow] = self.ask("Studies").studies  # type: ignore[attr-defined]
        return next(row for row in rows if row.name == study)

    def outcome(self, study: str) -> dict[str, object]:
        """A study's outcome, once it is completed."""
        until(lambda: self.row(study).state not in {"offered", "waiting", "running"}, study)
        row = self.row(study)
        assert row.state == "completed", row.why
        path = self.home.studies / study / "coordinator" / "outcome.json"
        found: dict[str, object] = json.loads(path.read_bytes())
        return found

    def kinds(self, study: str | None = None) -> list[str]:
        """The kinds of all events."""
        with self.store() as store:
            return [event.kind for event in store.events(study)]

    def store(self) -> CoordinatorStore:
        return open_store(self.home.store_url)


@contextmanager
def deployed(folder: Path, *settings: tuple[str, str]) -> Iterator[Deployment]:
    """A coordinator that serves, and ends at the end."""
    deployment = Deployment(folder, *settings)
    deployment.start()
    try:
        yield deployment
    finally:
        deployment.kill()


@contextmanager
def connected(deployment: Deployment, *hospitals: Hospital) -> Iterator[None]:
    """Admit sites and let them answer."""
    deployment.admit(*hospitals)
    for hospital in hospitals:
        hospital.open(deployment.card)
    try:
        yield
    finally:
        for hospital in hospitals:
            hospital.close()


def patient(document: str, **changes: str) -> str:
    """A study file of a World, with time-outs for a network."""
    text = re.sub(r'round_timeout = "[^"]*"', 'round_timeout = "30m"', document)
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    return text
