"""Starts commands as processes of their own, without importing everything each time.

The program reads one JSON object a line from standard input: ``arguments`` of a command, an
``environment`` to add, and the ``text`` on its standard input. Each command runs in a forked child,
whose exit code, negative for a signal, is written as a line; what it said is left in a folder.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from common.privacy.mechanisms import mechanism
from common.study.study_file import load_study
from tests.becoming import become

ROOT = Path(__file__).resolve().parent.parent
STREAMS = ("stdin", "stdout", "stderr")


class Launcher:
    """Runs the commands of one command line, one after the other.

    Args:
        line: its module.
        used: modules that its commands import where they need them: once, for all children.
        study: a file with a study whose noise is calibrated once for all children.
    """

    def __init__(self, line: str, used: Sequence[str], study: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="said-")
        order = json.dumps([self._folder.name, line, [*used], str(study or "")])
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher", order],
            cwd=ROOT,
            # One thread: a child of a process with several may not compute.
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running = threading.Lock()

    def __call__(
        self, *arguments: str | Path, environment: dict[str, str] | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        words = [str(word) for word in arguments]
        order = {"arguments": words, "environment": environment or {}, "text": text}
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        with self._running:
            self._program.stdin.write(json.dumps(order) + "\n")
            self._program.stdin.flush()
            code = int(self._program.stdout.readline())
            said = [Path(self._folder.name, name).read_text() for name in STREAMS[1:]]
        return subprocess.CompletedProcess(words, code, *said)

    def close(self) -> None:
        """End the program."""
        with self._program:
            assert self._program.stdin is not None
            self._program.stdin.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()


def _become(main: Callable[[], object], folder: Path, order: dict[str, Any]) -> NoReturn:
    """Become the command."""

    def prepare() -> None:
        (folder / "stdin").write_text(order["text"])
        flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2)
        for number, (name, flag) in enumerate(zip(STREAMS, flags, strict=True)):
            os.dup2(os.open(folder / name, flag, 0o600), number)
        os.environ.update(order["environment"])

    become(main, ["consilium", *order["arguments"]], prepare)


def serve(folder: Path, line: str, used: Sequence[str], study: str) -> None:
    """Start what is asked for, one after the other, until standard input ends."""
    main = importlib.import_module(line).main
    for each in used:
        importlib.import_module(each)
    if study:
        mechanism(load_study(Path(study)), 30, 60)
    for text in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(main, folder, json.loads(text))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - to the test


if __name__ == "__main__":
    place, *rest = json.loads(sys.argv[1])
    serve(Path(place), *rest)
