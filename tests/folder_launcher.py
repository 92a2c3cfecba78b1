"""Runs the commands of one command line with no more rights over files than their modes give.

Started with the module of the command line. Reads one JSON object a line from standard input: the
``words`` of a command, and the ``most`` bytes that a file may have, for a disk that is full. Each
command runs in a forked child, and is answered with one object: the exit ``code``, negative for a
signal, and what was ``said``.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from tests.becoming import become

_PR_CAPBSET_DROP = 24
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_DROPPED = "dropped"
SECONDS = 60.0
"""After which a command that should have failed is ended."""
PRELOADED = {
    "client.cli.app": (
        "client.administration.enrolment",
        "client.daemon.serving",
        "client.data.report",
        "client.records.verify",
    ),
    "server.cli.app": (
        "server.cli.commands",
        "server.daemon.operators",
        "server.daemon.supervisor",
    ),
    "simulations.cli.app": (
        "simulations.audit.audit",
        "simulations.cli.screen",
        "simulations.hospitals.npz",
        "simulations.cli.demonstration",
        "simulations.runs.network",
        "simulations.runs.run",
    ),
}


def begin_without_rights(module: str) -> None:
    """Begin anew as a program whose modes root too must obey; does not return."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability)
    words = [sys.executable, "-m", "tests.folder_launcher", module, _DROPPED]
    os.execv(sys.executable, words)


def _become(main: Callable[[], None], words: list[str], most: int | None) -> NoReturn:
    """Become the command, whose files may have so many bytes."""

    def prepare() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    become(main, ["consilium", *words], prepare)


def _carry_out(main: Callable[[], None], words: list[str], most: int | None) -> tuple[int, str]:
    # A pipe: a file could not be written where no file may have a byte.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        for number in (1, 2):
            os.dup2(writer, number)
        os.closerange(writer, writer + 1)
        _become(main, words, most)
    os.close(writer)
    patience = threading.Timer(SECONDS, os.killpg, (child, signal.SIGKILL))
    patience.start()
    with os.fdopen(reader, "rb") as said:
        text = said.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    patience.cancel()
    return os.waitstatus_to_exitcode(status), text


def serve(module: str) -> None:
    """Carry out one command after the other, until standard input ends."""
    main = importlib.import_module(module).main
    for each in PRELOADED[module]:
        importlib.import_module(each)
    for line in sys.stdin:
        order = json.loads(line)
        code, said = _carry_out(main, order["words"], order["most"])
        print(json.dumps({"code": code, "said": said}), flush=True)  # noqa: T201 - to the test


if __name__ == "__main__":
    if sys.argv[2:] != [_DROPPED]:
        begin_without_rights(sys.argv[1])
    serve(sys.argv[1])
