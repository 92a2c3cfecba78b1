"""``make golden``: does each shipped study still end in the weights that it ended in before?

Four whole runs from seed 0: ``demo``, ``network`` (over sockets), ``breast`` and
``pneumonia-epsilon3``. A change that moves code about and changes no behaviour ends in the same
bits. They hold for one kind of processor and one version of torch (see
``tests/client/training/test_arithmetic.py``, which is quicker and part of every test run); on
another machine
record them first, at the commit that is to be compared with: ``make golden ARGS=--record``.

Beside the demo's weights are the figures of its report's table, which README.md must say:
``tests/test_repository.py`` compares them, so that the table cannot become older than the code.

The images of the last two lie in a folder that ``MEDMNIST`` names, as ``breastmnist.npz`` and
``pneumoniamnist.npz``; where it is not set, they are left out and the command says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

from simulations.reports.result import Kind, read_result
from tests.client.training.test_arithmetic import machine

KNOWN: Final = Path(__file__).with_name("golden.toml")
FIGURES: Final = "demo-auc"
"""Key of the demo's figures."""
BINARIES: Final = Path(sys.executable).parent
FILES: Final = {"breast": "breastmnist.npz", "pneumonia-epsilon3": "pneumoniamnist.npz"}


def simulate(*arguments: str | Path) -> None:
    """Run ``consilium-sim``; what it says goes to standard error."""
    subprocess.run([BINARIES / "consilium-sim", *arguments], check=True, stdout=sys.stderr)


def weights(study: str, folder: Path) -> str | None:
    """SHA-256 of a study's last weights; None where its images are not here."""
    out = folder / study
    if study == "network":
        simulate("network", "--out", out)
        # It compares with the same study simulated, and fails where they differ.
        outcome = next(iter(out.rglob("outcome.json")))
        return str(json.loads(outcome.read_text())["final_weights_sha256"])
    if study == "demo":
        simulate("demo", "--out", out)
    else:
        images = Path(os.environ.get("MEDMNIST", "")) / FILES[study]
        if "MEDMNIST" not in os.environ or not images.exists():
            return None
        hospitals = folder / f"{study}-hospitals"
        division = ("--sites", "4", "--alpha", "0.5", "--seed", "0")
        simulate("hospitals", "from-npz", images, *division, "--out", hospitals)
        simulate("run", study, "--hospitals", hospitals, "--out", out, "--no-baselines")
    return str(json.loads((out / "result.json").read_text())["final_weights_sha256"])


def figures(folder: Path) -> list[float]:
    """Test AUC of the demo: shared, the best alone with and without privacy, and pooled."""
    result = read_result(folder / "demo")
    kinds: tuple[Kind, ...] = ("alone-private", "alone", "pooled")
    outcomes = (result.shared, *map(result.best, kinds))
    return [round(each.metrics.main.value or 0.0, 3) for each in outcomes if each]


def main(*, record: bool) -> int:
    """Run all four; 1 where one ends otherwise than before."""
    known: dict[str, Any] = tomllib.loads(KNOWN.read_text())
    expected: dict[str, Any] = known.setdefault(machine(), {})
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for study in ("demo", "network", *FILES):
            found = weights(study, Path(folder))
            if found is None:
                verdict = f"left out: MEDMNIST names no folder with {FILES[study]}"
            elif record:
                expected[study], verdict = found, "recorded"
            elif study not in expected:
                verdict = "nothing is recorded for this machine"
            else:
                failed |= found != expected[study]
                verdict = "as before" if found == expected[study] else "OTHER WEIGHTS"
            print(f"{study}: {found} {verdict}")  # noqa: T201 - a command line
            if study == "demo":
                told = figures(Path(folder))
                other = told != expected.setdefault(FIGURES, told) and not record
                failed, expected[FIGURES] = failed | other, told
                print(f"demo: test AUC {told}{' OTHER FIGURES' if other else ''}")  # noqa: T201
    if record:
        tables = (
            f'["{name}"]\n' + "".join(f"{key} = {json.dumps(row)}\n" for key, row in rows.items())
            for name, rows in known.items()
        )
        KNOWN.write_text("\n".join(tables))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(record="--record" in sys.argv[1:]))
