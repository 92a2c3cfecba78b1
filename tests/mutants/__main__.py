"""Change a module in one place after another, and see which change no test notices.

``python -m tests.mutants [NAME ...]``: names as in ``pairs.toml``, ``client/records/ledger``;
none for all. ``--sample N`` tries so many of a module's mutants, chosen by the seed; 0 tries all.
Survivors that ``survivors.toml`` explains are listed apart. Exits with 1 where one is not
explained.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

# Before anything imports torch or Flower, as in tests/conftest.py: a fork has one thread.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
os.environ.update({"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"})
os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "MPLBACKEND": "Agg"})

from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.running import Copy
from tests.mutants.survivors import explained

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
BUILD: Final = ROOT / "build" / "mutants"


@dataclass(frozen=True)
class Tally:
    """What became of a module's mutants."""

    module: str
    all: int
    tried: int
    survived: tuple[Mutant, ...]

    def line(self, unexplained: int) -> str:
        """For a table: module, mutants, tried, killed, survived, of these not explained."""
        survived = len(self.survived)
        killed = self.tried - survived
        columns = (self.module, self.all, self.tried, killed, survived, unexplained)
        return f"| {' | '.join(map(str, columns))} |"


def chosen(mutants: list[Mutant], most: int, seed: int) -> list[Mutant]:
    """A sample of mutants, in their order; all of them where ``most`` is 0."""
    if not most or len(mutants) <= most:
        return mutants
    taken = random.Random(seed).sample(range(len(mutants)), most)
    return [mutants[place] for place in sorted(taken)]


def tried(module: str, tests: list[str], most: int, seed: int) -> Iterator[str | Tally]:
    """Try a module's mutants; gives a line for each, and the tally in the end."""
    mutants = mutants_of(module, (ROOT / f"{module}.py").read_text())
    sample, survived = chosen(mutants, most, seed), []
    yield f"{module}: {len(sample)} of {len(mutants)} mutants, seed {seed}"
    copy = Copy(ROOT, BUILD / module.replace("/", "."), module, tests)
    without = copy.baseline()
    if not without.passed:
        raise SystemExit(f"error: without any change {without.by} fails: {copy.folder}/output.txt")
    yield f"{module}: the tests take {without.seconds:.0f} s of a processor"
    for number, mutant in enumerate(sample, 1):
        ran = copy.run(mutant.source, mutant.where)
        if ran.passed:
            survived.append(mutant)
        verdict = "SURVIVED" if ran.passed else f"killed by {ran.by}"
        yield f"{number}/{len(sample)} {ran.seconds:.1f} s {verdict}\n  {mutant}"
    yield Tally(module, len(mutants), len(sample), tuple(survived))


def main(arguments: list[str]) -> int:
    """Try the modules that are named; gives the exit code."""
    settings = tomllib.loads((HERE / "pairs.toml").read_text())
    pairs: dict[str, list[str]] = settings["tests"]
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--sample", type=int, default=settings["sample"])
    parser.add_argument("--seed", type=int, default=settings["seed"])
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in pairs]:
        parser.error(f"no such module: {', '.join(unknown)}\n  wanted: {', '.join(pairs)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    known, found = explained(), 0
    for name in given.names or pairs:
        for said in tried(name, pairs[name], given.sample, given.seed):
            if isinstance(said, str):
                print(said, flush=True)
                continue
            new = [each for each in said.survived if each.key not in known]
            found += len(new)
            for mutant in said.survived:
                why = known.get(mutant.key, "NOT EXPLAINED")
                print(f"survived: {mutant}\n    = {why}")
            print(said.line(len(new)), flush=True)
            _keep(said, len(new))
    return 1 if found else 0


def _keep(tally: Tally, new: int) -> None:
    path = BUILD / f"{tally.module.replace('/', '.')}.json"
    about: dict[str, Any] = {"at": datetime.now(UTC).isoformat(), "line": tally.line(new)}
    about["survived"] = [dict(zip(_NAMES, each.key, strict=True)) for each in tally.survived]
    path.write_text(json.dumps(about, indent=2) + "\n")


_NAMES: Final = ("module", "where", "before", "after")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
