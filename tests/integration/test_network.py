"""No process of a run speaks to another machine, or asks for one's address."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import study_text

WATCHER = """
import os
import sys

EVENTS = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.getnameinfo",
    "socket.bind",
    "ftplib.connect",
    "http.client.connect",
    "urllib.Request",
}


def watch(event, arguments):
    if event in EVENTS:
        line = f"{event}\\t{arguments!r}\\n".encode()
        file = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND)
        os.write(file, line)
        os.close(file)


sys.addaudithook(watch)
"""
LOOPBACK = ("'127.", "'localhost'", "'::1'")


@pytest.fixture
def command(hospitals: Path, tmp_path: Path) -> list[str]:
    """A whole run, baselines in processes of their own included."""
    study = tmp_path / "study.toml"
    study.write_text(study_text())
    words = ["run", study, "--hospitals", hospitals, "--out", tmp_path / "run"]
    return [sys.executable, "-m", "simulations.cli.app", *(str(word) for word in words)]


@pytest.mark.long
@pytest.mark.parametrize("without", [["--no-baselines"], []], ids=["", "baselines"])
def test_no_process_connects_or_resolves_beyond_loopback(
    without: list[str], command: list[str], root: Path, tmp_path: Path
) -> None:
    """Watched from inside: Python tells of every attempt, in every process it starts."""
    watched, watcher = tmp_path / "watched", tmp_path / "watcher"
    watched.touch()
    watcher.mkdir()
    (watcher / "sitecustomize.py").write_text(WATCHER)
    path = os.pathsep.join([str(watcher), str(root)])
    environment = os.environ | {"PYTHONPATH": path, "WATCHED": str(watched)}
    done = subprocess.run(
        [*command, *without], cwd=root, env=environment, capture_output=True, check=False
    )
    probe = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", probe], env=environment, check=True)

    assert done.returncode == 0, done.stderr.decode()
    *seen, proof = watched.read_text().splitlines()
    assert "127.0.0.1" in proof  # the watcher does watch
    assert [line for line in seen if not any(place in line for place in LOOPBACK)] == []


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_system_sees_no_connection_beyond_loopback(
    command: list[str], root: Path, tmp_path: Path
) -> None:
    """Watched from outside: libraries that are not Python go through the system too."""
    trace = tmp_path / "trace"
    calls = "trace=connect,sendto,sendmsg,bind"
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(trace), "-e", calls]
    done = subprocess.run(
        [*strace, *command, "--no-baselines"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        check=False,
    )
    if not trace.exists() or b"PTRACE" in done.stderr or b"ptrace" in done.stderr:
        pytest.skip("strace may not trace here")

    assert done.returncode == 0, done.stderr.decode()
    internet = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    assert [line for line in internet if not re.search(r'"127\.|"::1"', line)] == []


@pytest.mark.long
def test_telemetry_of_the_libraries_is_off_before_they_are_imported(root: Path) -> None:
    program = (
        "import json, os, sys, simulations.runs.run\n"
        "names = ('FLWR_TELEMETRY_ENABLED', 'RAY_USAGE_STATS_ENABLED')\n"
        "json.dump([os.environ.get(name) for name in names], sys.stdout)"
    )
    plain = {
        key: value for key, value in os.environ.items() if "FLWR" not in key and "RAY" not in key
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=plain | {"PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        check=True,
    )

    assert json.loads(done.stdout) == ["0", "0"]
