"""A malicious coordinator: a real gateway and SuperLink, a site's daemon as a process, and a grid.

Everything between the two is what a hospital and a coordinator really run; the test decides what
is sent over it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from client.administration.enrolment import introduce, join
from client.node_key import load_node_key
from client.site import open_site
from common.models.networks import weights_count
from common.plan import Offer, write_plan
from common.process.ports import free_port
from common.wire.flower import Message
from common.wire.messages import Reply, Request, reply_from_record
from server.daemon import authority
from server.study.dispatch import MESSAGE_TYPES
from server.superlink.grid import FleetGrid
from tests.client.site_fixtures import Hospital, offer_request, proposal
from tests.common.studies import toml
from tests.hostile.sound import STUDY, Sent, Sound, sent
from tests.hostile.standing import PATIENTS, POLICY, STEPS, asked
from tests.network import Coordinator, coordinator, reply_to
from tests.waiting import PATIENCE, until

ROOT: Final = Path(__file__).resolve().parents[2]
NAME: Final = "north"


@dataclass
class Daemon:
    """A site's daemon, and what can be seen of it from inside the hospital.

    Attributes:
        hospital: its folder.
        log: what its processes write.
    """

    hospital: Hospital
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def events(self) -> list[dict[str, Any]]:
        """What all its processes have logged."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def command(self, *arguments: str) -> str:
        """The output of a command of the hospital's administrator."""
        done = subprocess.run(
            [sys.executable, "-m", "client.cli.app", "--site", "site.toml", *arguments],
            cwd=self.hospital.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def audited(self) -> list[dict[str, Any]]:
        """The lines of its audit log."""
        lines = (self.hospital.state / "audit.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@dataclass
class Attacker:
    """An attacker who runs the coordinator and controls the study's run.

    Attributes:
        grid: everything is sent over it.
        node: the site's.
        key: that the site signs with, as the coordinator has been told.
        sound: what an honest coordinator would hold now.
        replies: what the site answered at each step of the script.
    """

    served: Coordinator
    grid: FleetGrid
    daemon: Daemon
    node: int
    key: str
    sound: Sound | None = None
    replies: list[Reply] = field(default_factory=list)

    def push(self, message: Message) -> str:
        """Send a message; gives its identifier, empty where Flower refused it."""
        (message_id,) = self.grid.push_messages([message]) or [""]
        return message_id

    def send(self, message: Sent) -> str:
        """Send content as what its purpose says."""
        purpose, content = message
        return self.push(Message(content, self.node, MESSAGE_TYPES[purpose], ttl=3600.0))

    def answer(self, message_id: str) -> Message:
        """The message that comes back."""
        return reply_to(self.grid, message_id)

    def ask(self, request: Request) -> Reply:
        """The reply to an honest request."""
        return reply_from_record(self.answer(self.send(sent(request))).content)

    def advance(self, step: int) -> Sound:
        """Go on with the sound script until the site has answered this many steps."""
        sound = self.sound or self._begin()
        while sound.done < step:
            reply = self.ask(sound.step(sound.done))
            assert reply.code == "ok", f"step {sound.done}: {reply.code}"
            self.replies.append(reply)
            heads, seals = (*sound.heads, reply.ledger), (*sound.seals, reply.seal)
            sound = Sound(sound.plan, sound.done + 1, heads, seals, sound.key)
        self.sound = sound
        return sound

    def _begin(self) -> Sound:
        """The offer, the plan, its approval; and a twin of the site that is never attacked."""
        offer = Offer.model_validate_json(self.ask(offer_request(STUDY)).document)
        plan = write_plan(STUDY, offer, weights_count(STUDY))
        approval = self.ask(proposal(plan))
        assert approval.code == "ok"
        folder = self.daemon.hospital.folder
        shutil.copytree(folder, self.twin, ignore=shutil.ignore_patterns("*.sock", "*.log"))
        key = authority.signing_key(self.served.home)
        return Sound(plan, 0, (approval.ledger,), (approval.seal,), key)

    @property
    def twin(self) -> Path:
        """The site's folder as it was when the plan was approved."""
        folder = self.daemon.hospital.folder
        return folder.with_name(f"{folder.name}-undisturbed")

    def undisturbed(self) -> list[Reply]:
        """What the twin answers at each step."""
        assert self.sound is not None
        with open_site(self.twin / "site.toml") as site:
            return [asked(site, self.sound.step(number)) for number in range(STEPS)]


@contextmanager
def attack(folder: Path) -> Iterator[Attacker]:
    """A coordinator that serves, a daemon that has joined it, and a run that is the attacker's."""
    with coordinator(folder / "coordinator") as served:
        hospital = Hospital(folder / NAME, dict(PATIENTS), policy=dict(POLICY), seed=None)
        node, key = _enrol(served, hospital)
        with _daemon(hospital) as daemon:
            line = served.line()
            grid = served.superlink.open_grid(served.superlink.start_run("small"), line)
            try:
                until(lambda: any(each.name == NAME for each in grid.get_nodes()))
                yield Attacker(served, grid, daemon, node, key)
            finally:
                grid.close()
                line.close()


def _enrol(served: Coordinator, hospital: Hospital) -> tuple[int, str]:
    site_file = hospital.folder / "site.toml"
    metrics = {"metrics": {"listen": f"127.0.0.1:{free_port()}"}}
    site_file.write_text(toml(hospital.site_file() | metrics))
    card = introduce(site_file).card
    join(site_file, served.card)
    return served.admit(NAME, load_node_key(hospital.state / "node.key")), card.signing_key


@contextmanager
def _daemon(hospital: Hospital) -> Iterator[Daemon]:
    log = hospital.folder / "daemon.log"
    command = [sys.executable, "-m", "client.cli.app", "--site", "site.toml", "serve"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=hospital.folder, env=environment, stdout=file, stderr=file
        )
    try:
        yield Daemon(hospital, log, process)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
