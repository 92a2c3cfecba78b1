"""Run every benchmark, or those named: ``python -m benchmarks [NAME ...]``.

A benchmark is a module of this folder with a ``main()`` behind ``__name__ == "__main__"``
that prints its result as one line of JSON. Each runs in a process of its own, so that one
cannot warm or burden the next. Exits with 1 if any of them fails, after running the rest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def available() -> list[str]:
    """Names of the benchmarks in this folder, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def run(name: str) -> bool:
    """Run one benchmark, its output passed through; tells whether it succeeded."""
    command = [sys.executable, "-m", f"{FOLDER.name}.{name}"]
    return subprocess.run(command, cwd=FOLDER.parent, check=False).returncode == 0


def main(names: list[str]) -> int:
    """Run the named benchmarks, all of them if none is named; gives the exit code."""
    known = available()
    unknown = [name for name in names if name not in known]
    if unknown:
        print(
            f"error: no such benchmark: {', '.join(unknown)}\n  wanted: {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    failed = [name for name in names or known if not run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
