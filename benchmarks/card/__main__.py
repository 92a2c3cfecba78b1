"""``python -m benchmarks.card [--out JSON] [--page PAGE]``: what ``make cuda`` runs.

The tests marked ``cuda``; the engine's probe on each model and image size, in each precision; and
``benchmarks.device`` on the card. All of it goes into one JSON file, and from there onto one page.
Exits with 1 where a test or a claim fails, after writing both; with 2 where no card is here, or no
test passed: then nothing was shown, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import torch

from benchmarks.card.page import page
from benchmarks.card.probing import CASES, Case, probed
from common.devices.devices import DEVICES
from common.errors import SiteError
from common.files import write_atomic

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "cuda.json"
PAGE: Final = ROOT / "docs" / "cuda.md"
TESTS: Final = ("tests/client", "tests/common/devices")
THREADS: Final = 4


def commit() -> str:
    """The commit, and whether files differ from it."""

    def said(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S607 - the developer's own git
        return done.stdout.strip()

    changed = " with changes" if said("status", "--porcelain", "--untracked-files=no") else ""
    return said("rev-parse", "HEAD") + changed


def suite(folder: Path) -> dict[str, Any]:
    """How many tests marked ``cuda`` passed, failed and were skipped; which failed.

    Raises:
        SiteError: none of them passed or failed, or pytest left no report.
    """
    report = folder / "cuda-tests.xml"
    report.unlink(missing_ok=True)  # of a run before, which said nothing of this one
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "cuda", *TESTS]
    done = subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, check=False)
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - pytest wrote it
    except (OSError, ElementTree.ParseError) as error:
        raise SiteError(
            "the tests on the graphics card left no report that can be read",
            where=report,
            found=f"{error}; pytest ended with exit code {done.returncode}",
            wanted="a report of pytest's in JUnit's form",
            remedy="see what pytest says above: it was ended, or the disk is full",
        ) from error
    finally:
        report.unlink(missing_ok=True)
    failed = [each for each in cases if each.find("failure") is not None or _broke(each)]
    skipped = [each for each in cases if each.find("skipped") is not None]
    if len(cases) == len(skipped):
        raise SiteError(
            "no test ran on the graphics card",
            where="pytest -m cuda",
            found=f"{len(cases)} tests, all skipped; pytest ended with exit code {done.returncode}",
            wanted="tests that pass or fail",
            remedy="run pytest -m cuda -rs: it says why each was skipped",
        )
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": [f"{each.get('classname')}.{each.get('name')}" for each in failed],
        "skipped": len(skipped),
    }


def _broke(case: ElementTree.Element) -> bool:
    return case.find("error") is not None


def bench() -> tuple[list[dict[str, Any]], bool]:
    """The benchmark's lines, and whether what is claimed holds."""
    command = [sys.executable, "-m", "benchmarks.device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return lines, done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run everything and write both files; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    device = DEVICES["cuda"]
    try:
        device.repeat(THREADS)
        card = device.card()
        device.require_computing()
        given.out.parent.mkdir(parents=True, exist_ok=True)
        tested = suite(given.out.parent)
    except SiteError as error:
        print(f"error: {error.render()}", file=sys.stderr)
        return 2
    assert card is not None
    lines, holds = bench()
    found: dict[str, Any] = {
        "card": card.model_dump(mode="json"),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "tests": tested,
        "probe": [probed(case) for case in CASES],
        "bench": lines,
    }
    write_atomic(given.out, (json.dumps(found, indent=2) + "\n").encode())
    write_atomic(given.page, page(found).encode())
    print(f"written: {given.out}, {given.page}; now say in README.md: last run on {card.name}")
    refused = [each for each in found["probe"] if each["refused"]]
    for each in refused:
        print(f"refused: {Case(**each['case']).name}: {each['refused']}")
    return int(bool(tested["failed"]) or not holds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
