"""Starts commands as processes of their own, without importing everything each time.

Reads one JSON object a line from standard input: ``arguments`` of ``consilium-sim`` and an
``environment`` to add. Each command runs in a forked child, whose exit code, negative for a
signal, is written as a line. What it said is left in the folder given as first argument; the
second is a study whose noise is calibrated once for all children.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from common.privacy.mechanisms import mechanism
from common.study.study_file import load_study
from simulations.cli.app import main
from tests.becoming import become


def run(folder: Path, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the command."""

    def prepare() -> None:
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
        os.environ.update(environment)

    become(main, ["consilium-sim", *arguments], prepare)


def serve(folder: Path, study: Path) -> None:
    """Start what is asked for, one after the other, until standard input ends."""
    mechanism(load_study(study), 30, 60)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run(folder, order["arguments"], order["environment"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - to the test


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
