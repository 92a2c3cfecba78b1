"""A process that gives one input after another to a target, and tells of what is wrong.

    python -m tests.fuzz.child TARGET --out FOLDER --seed N --first N --seconds N

Before each input is read it lies in ``FOLDER/input``, and the process has a bound on the
processor time that it may take for it: whatever ends the process, the parent knows of what. Each
line of standard output is one document of JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import hashlib
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from common.errors import Refusal
from common.process.parent import die_with_parent
from tests.fuzz.target import Target, require_help
from tests.fuzz.targets import known

MOST_MEMORY: Final = 4 * 2**30
"""Bytes of private memory, for the largest image that a site opens."""
DEADLINE: Final = 40
"""Seconds of processor time for one input."""
MOST_MORE: Final = {"memory": 32 * 2**20, "open files": 8, "threads": 8, "files": 8}
"""By how much a process may have grown between its first inputs and its last."""
MOST_LONGER: Final = 10
"""How many times as long as it asks of the processor a run may take, where it waits for a disk."""
LOOKS: Final = 12
"""How often it is measured."""
ONCE: Final = 2
"""Steps up that are no growth: a decoder that is loaded by the first file that needs it."""


@dataclass
class Child:
    """One process's work.

    Attributes:
        target: what reads the inputs.
        out: where the input lies that is being read.
        deadline: seconds of processor time for one.
        verdicts: how often each came.
        told: the faults that were told of already.
    """

    target: Target
    out: Path
    deadline: int
    verdicts: Counter[str] = field(default_factory=Counter)
    told: set[str] = field(default_factory=set)

    def feed(self, number: int, data: bytes) -> None:
        """One input."""
        (self.out / "input").write_bytes(data)
        (self.out / "number").write_text(str(number))
        _bound_time(self.deadline)
        try:
            verdict = self._verdict(data)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            self._tell(number, data, f"{type(error).__name__} {_place(error)}", error)
            return
        self.verdicts[verdict] += 1

    def _verdict(self, data: bytes) -> str:
        try:
            return self.target.take(data)
        except self.target.errors as error:
            if not isinstance(error, Refusal):
                require_help(error)
            return type(error).__name__

    def _tell(self, number: int, data: bytes, fault: str, error: BaseException) -> None:
        if fault not in self.told:
            self.told.add(fault)
            report = "".join(traceback.format_exception(error, limit=-8))
            _say(fault=fault, number=number, report=report[-4000:], input=data.hex())


def _place(error: BaseException) -> str:
    """Where it was raised: the innermost places of the product and of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "site-packages" not in each.filename]
    last = [*ours[-1:], *(frames[-1:] if frames[-1] not in ours[-1:] else [])]
    if isinstance(error, AssertionError):
        return str(error)[:200]
    return " ".join(f"{Path(each.filename).name}:{each.name}" for each in last)


def _bound_time(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))


def measured(folder: Path) -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return {
        "memory": resident,
        "open files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
        "files": sum(1 for _ in folder.rglob("*")),
    }


def growth(held: Sequence[int]) -> int:
    """By how much something grew in the second half, but for its largest steps.

    A leak goes on and on; what fills up to a bound has filled by then, on a slow machine too.
    """
    later = held[len(held) // 2 :]
    steps = [after - before for before, after in itertools.pairwise(later)]
    return sum(sorted(steps)[:-ONCE])


def inputs(target: Target, seed: str, first: int, seconds: float) -> Iterator[tuple[int, bytes]]:
    """Samples in turn, spoiled, until the time is over; each follows from the seed and its number.

    The time is the processor's: on a busy machine it takes longer, and as many inputs are read.
    """
    samples = list(target.samples())
    until, latest = time.process_time() + seconds, time.monotonic() + MOST_LONGER * seconds
    number = first
    while time.process_time() < until and time.monotonic() < latest:
        draw = random.Random(f"{seed} {number}")
        sample = samples[number % len(samples)]
        yield number, sample if number < len(samples) else target.spoil(draw, sample)
        number += 1


def run(child: Child, seed: str, first: int, seconds: float) -> None:
    """Read inputs for a while, and tell of growth."""
    began, last, count = time.process_time(), -1, 0
    looks: list[dict[str, int]] = []
    for number, data in inputs(child.target, seed, first, seconds):
        due = int((time.process_time() - began) / seconds * LOOKS)
        if due > last:
            last = due
            looks.append(measured(child.out))
        child.feed(number, data)
        count += 1
    looks.append(measured(child.out))
    for what, most in MOST_MORE.items():
        held = [each[what] for each in looks]
        if growth(held) > most:
            report = f"{held} after {count} inputs"
            _say(fault=f"growth of {what}", number=first, report=report, input="")
    _say(done=count, verdicts=dict(child.verdicts))


def replay(child: Child, files: Sequence[Path]) -> None:
    """Read kept inputs, each by the target that its folder is named after."""
    made: dict[str, Target] = {}
    for number, path in enumerate(files):
        name = path.parent.name
        if name not in made:
            folder = child.target.folder / name
            folder.mkdir(exist_ok=True)
            made[name] = known(name)(folder)
        child.target = made[name]
        child.feed(number, path.read_bytes())
    _say(done=len(files), verdicts=dict(child.verdicts))


def _say(**document: Any) -> None:  # noqa: ANN401 - what JSON can hold
    print(json.dumps(document), file=_OUT, flush=True)


_OUT = os.fdopen(os.dup(1), "w")
"""What the product or a decoder prints does not go there."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", help="ignored with --replay, where folders name them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--deadline", type=int, default=DEADLINE)
    parser.add_argument("--replay", type=Path, nargs="*")
    options = parser.parse_args()

    die_with_parent(os.getppid())
    folder = options.out / "place"
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    faulthandler.register(signal.SIGXCPU, chain=True)  # says where, then ends the process
    _bound_memory()
    target = Target(folder) if options.replay else known(options.target)(folder)
    gc.collect()
    gc.freeze()  # what was imported is not looked through again
    child = Child(target, options.out, options.deadline)
    if options.replay:
        replay(child, options.replay)
    else:
        seed = hashlib.sha256(f"{options.seed} {options.target}".encode()).hexdigest()
        run(child, seed, options.first, options.seconds)
    sys.stderr.flush()
    os._exit(0)  # a target's threads and locks go with the process


if __name__ == "__main__":
    main()
