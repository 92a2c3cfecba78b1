"""Runs a target in processes of its own, one after another, until its time is over.

A process that dies costs the input that it died of, and the next one goes on after it. One that
takes no processor time at all waits for something that never comes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parents[2]
SEEDS: Final = Path(__file__).resolve().parent / "seeds"
MOST: Final = 20
"""Processes of one turn that may die; then something is so wrong that more of it tells nothing."""
STUCK: Final = 60.0
"""Seconds in which a process sleeps at each look and takes no processor time: it waits for ever."""
LOOK: Final = 2.0
_FRAME: Final = re.compile(r'File "([^"]+)", line \d+,? in (\S+)')


@dataclass(frozen=True)
class Finding:
    """An input that ended in no verdict.

    Attributes:
        target: its name.
        fault: what happened, in a line; one of a kind is told once.
        number: of the input, in the sequence of the seed.
        report: where.
        data: the input; none where no single one is to blame.
    """

    target: str
    fault: str
    number: int
    report: str = field(repr=False)
    data: bytes = field(repr=False)

    def keep(self, folder: Path) -> Path:
        """Write the input to a file."""
        name = "".join(each if each.isalnum() else "-" for each in self.fault.lower())[:60]
        path = folder / self.target / f"{name.strip('-')}-{self.number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path


@dataclass
class Turn:
    """What a target did with its time."""

    inputs: int = 0
    seconds: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, other: Turn) -> None:
        """What it did with more time."""
        self.inputs += other.inputs
        self.seconds += other.seconds
        self.verdicts += other.verdicts
        self.findings = other.findings | self.findings


def fuzz(
    target: str,
    out: Path,
    *,
    seed: str,
    first: int = 0,
    seconds: float,
    deadline: int | None = None,
) -> Turn:
    """Feed a target for a while.

    Args:
        target: its name, or where it is.
        out: a folder for its processes.
        seed: which, with an input's number, makes it.
        first: number of the first input.
        seconds: of the processor, not counting the start of a process.
        deadline: seconds of processor time for one input.
    """
    turn, began = Turn(), time.monotonic()
    for _ in range(MOST):
        left = seconds - turn.seconds
        arguments = ["--seed", seed, "--first", str(first), "--seconds", str(max(left, 0.1))]
        if deadline is not None:
            arguments += ["--deadline", str(deadline)]
        started = time.monotonic()
        number = _process(target, out, arguments, turn)
        turn.seconds += time.monotonic() - started
        if number is None or turn.seconds >= seconds:
            break
        turn.inputs += number + 1 - first
        first = number + 1
    turn.seconds = time.monotonic() - began
    return turn


def replay(out: Path, files: Sequence[Path]) -> Turn:
    """Feed kept inputs to the targets that their folders are named after."""
    turn = Turn()
    rest = list(files)
    while rest:
        number = _process("kept", out, ["--replay", *map(str, rest)], turn)
        if number is None:
            break
        turn.inputs += number + 1
        rest = rest[number + 1 :]
    return turn


def _process(target: str, out: Path, arguments: Sequence[str], turn: Turn) -> int | None:
    """One process to its end; the number of the input that it died of."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "number").unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.child", target, "--out", str(out), *arguments]
    with (
        (out / "stderr").open("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment()
        ) as process,
    ):
        stuck = threading.Event()
        watch = threading.Thread(target=_watch, args=(process, stuck), daemon=True)
        watch.start()
        assert process.stdout is not None
        done = _listen(process.stdout, target, turn)
        code = process.wait()
        watch.join()
        errors.seek(0)
        said = errors.read()[-4000:]
    if done:
        return None
    if not (out / "number").exists():
        raise RuntimeError(f"{target} did not start:\n{said}")
    number = int((out / "number").read_text())
    fault = "waits for ever" if stuck.is_set() else _ending(code)
    fault = f"{fault} {_place(said, hung=code == -signal.SIGXCPU)}".strip()
    found = Finding(target, fault, number, said, (out / "input").read_bytes())
    turn.findings.setdefault(fault, found)
    return number


def _environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RUST_BACKTRACE": "0"}
    return dict(os.environ) | one | quiet | {"PYTHONPATH": str(ROOT)}


def _listen(lines: IO[str], target: str, turn: Turn) -> bool:
    """Take what a process tells; whether it came to its end."""
    for line in lines:
        told = json.loads(line)
        if "done" in told:
            turn.inputs += told["done"]
            turn.verdicts.update(told["verdicts"])
            return True
        data = bytes.fromhex(told["input"])
        found = Finding(target, told["fault"], told["number"], told["report"], data)
        turn.findings.setdefault(found.fault, found)
    return False


def _ending(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "takes for ever"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _place(said: str, *, hung: bool) -> str:
    """Where a process ended, as faulthandler tells it: the innermost places of ours and of all.

    One that hung was ended at any line of its loop, or of what the loop calls of others.
    """
    frames = _FRAME.findall(said)
    ours = [it for it in frames if it[0].startswith(str(ROOT)) and "site-packages" not in it[0]]
    last = ours[:1] if hung else [*ours[:1], *(frames[:1] if frames[:1] != ours[:1] else [])]
    return " ".join(f"{Path(file).name}:{function}" for file, function in last)


def _watch(process: subprocess.Popen[str], stuck: threading.Event) -> None:
    """End a process that sleeps and sleeps: on a busy machine it would at times be ready to run."""
    since, before = time.monotonic(), -1
    while process.poll() is None:
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[1].split()
        except OSError:
            return
        used = int(stat[11]) + int(stat[12])
        if used != before or stat[0] != "S":
            since, before = time.monotonic(), used
        if time.monotonic() - since > STUCK:
            stuck.set()
            process.kill()
            return
        try:
            process.wait(LOOK)
        except subprocess.TimeoutExpired:
            continue
