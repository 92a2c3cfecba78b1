"""A site's daemon as a process of its own, whose line goes to the stand-in of a coordinator."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from client.daemon.serving import serve
from client.sitefile import Programs, served_site
from common.process import logs
from common.wire.enrolment import CoordinatorCard
from tests.launcher import Launcher
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[3]
STANDIN = "tests.client.daemon.standin"
QUICK = "tests.client.daemon.quick_worker"
REAL = "client.daemon.worker"
USED = ("client.administration.enrolment", "client.cli.commands", "client.data.report")


@dataclass
class Daemon:
    """A running daemon and the command line that asks it."""

    process: subprocess.Popen[bytes]
    site_file: Path
    log: Path

    def ask(self, *arguments: str, code: int = 0, text: str | None = None) -> str:
        """What a command says, on both ways out; it must leave with that code."""
        done = command(self.site_file, *arguments, text=text)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in lines if line["event"] == name]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


@cache
def commands() -> Launcher:
    """Starts ``consilium-site``; it ends with this process."""
    made = Launcher("client.cli.app", USED)
    atexit.register(made.close)
    return made


def command(site_file: Path, *arguments: str, text: str | None = None) -> Done:
    return commands()("--site", site_file, *arguments, text=text or "")


@contextmanager
def daemon(
    site_file: Path,
    *,
    worker: str = QUICK,
    seed: int | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Daemon]:
    log = site_file.parent / "daemon.log"
    arguments = [str(site_file), worker, "" if seed is None else str(seed)]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.client.daemon.process", *arguments],
            cwd=ROOT,
            stderr=said,
            env={**os.environ, **(environment or {})},
        )
    it = Daemon(process, site_file, log)
    try:
        until(lambda: it.events("daemon.started") or process.poll() is not None)
        yield it
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)


def main() -> None:
    path, worker, seed = sys.argv[1:]
    logs.configure("json", "info", site="north")
    place = served_site(Path(path), int(seed) if seed else None)
    card = CoordinatorCard.model_construct(
        name="centre", address="127.0.0.1:1", ca="", signing_key=""
    )
    serve(replace(place, card=card), Programs(STANDIN, worker))


Done = subprocess.CompletedProcess[str]

if __name__ == "__main__":
    main()
