"""The fuzzer: ``python -m tests.fuzz [--seconds 3600] [--seed N] [--out FOLDER] [TARGET ...]``.

Every target in turn, over and over, until the time is over. With ``--replay FILE`` one input that
was kept is read again. Exits with 1 where there are findings.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.fuzz.running import Turn, fuzz, replay
from tests.fuzz.targets import TARGETS

TURN: Final = 60.0
"""Seconds of a target's turn, in which one process reads all inputs."""


def campaign(names: list[str], seconds: float, seed: str, out: Path) -> dict[str, Turn]:
    """All targets, as long as there is time; prints one line a turn."""
    total = {name: Turn() for name in names}
    until, turns = time.monotonic() + seconds, 0
    length = min(TURN, seconds / len(names))
    while True:
        for name in names:
            left = until - time.monotonic()
            if left <= 0 and turns:
                return total
            place = Path(tempfile.gettempdir()) / f"fuzz-{name}"
            turn = fuzz(
                name,
                place,
                seed=f"{seed}-{turns}",
                seconds=length if not turns else min(length, max(left, 1.0)),
            )
            new = [
                each for fault, each in turn.findings.items() if fault not in total[name].findings
            ]
            total[name].add(turn)
            _progress(name, total[name])
            for each in new:
                path = each.keep(out)
                print(f"  {each.fault}\n    {each.report.strip()}".replace("\n", "\n    "))
                print(f"  again: python -m tests.fuzz --replay {path}", flush=True)
        turns += 1
        if time.monotonic() >= until:
            return total


def _progress(name: str, turn: Turn) -> None:
    rate = turn.inputs / max(turn.seconds, 0.001)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in turn.verdicts.most_common(4))
    print(
        f"{name:<16} {turn.inputs:>9} inputs {rate:>7.0f}/s {len(turn.findings):>3} findings"
        f"   {verdicts}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", default=None, help="of all inputs; drawn and shown by default")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="for findings")
    parser.add_argument("--replay", type=Path, help="one input, in a folder named after its target")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        tempfile.tempdir = place
        if options.replay is not None:
            again = replay(Path(place), [options.replay.absolute()])
            for each in again.findings.values():
                print(f"{each.fault}\n{each.report}")
            _progress(options.replay.parent.name, again)
            return bool(again.findings)
        seed = options.seed or secrets.token_hex(4)
        print(f"seed {seed}; again with --seed {seed}", flush=True)
        names = options.targets or list(TARGETS)
        total = campaign(names, options.seconds, seed, options.out)
    found = sum(len(turn.findings) for turn in total.values())
    print(f"{sum(turn.inputs for turn in total.values())} inputs, {found} findings")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
