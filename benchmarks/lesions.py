"""How many patients a hospital needs before a network that outlines things is useful with privacy.

The shipped study ``lesions`` on made-up hospitals of several sizes, four of each size, at epsilon 8
and 3. The peer takes as many steps on the same patients without privacy, at the learning rate that
fits gradients which nobody clips.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks._studies import changed
from common.process.logs import configure
from common.process.progress import silent
from simulations.hospitals.lesions import write_lesions
from simulations.hospitals.synth import SPLIT, Size
from simulations.reports.result import Result
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings

DECLARED: Final = (25, 50, 100)
"""Training patients of each hospital."""
TEST_PATIENTS: Final = 200
PRIVACY: Final[dict[str, dict[str, str]]] = {
    "epsilon 8": {},
    "epsilon 3": {"epsilon = 8.0": "epsilon = 3.0"},
    # Gradients that are not clipped are some ten times as long.
    "no privacy": {
        'mode = "patient"': 'mode = "none"',
        "epsilon = 8.0": "",
        "delta = 1e-5": "",
        "clip_norm = 0.1": "",
        "learning_rate = 5.0": "learning_rate = 0.5",
    },
}
"""What changes in the shipped study."""


def main() -> int:
    """Print a line for each number of patients, epsilon and class.

    Returns:
        1 where more patients did not help at either epsilon.
    """
    configure(level="error")
    liver: dict[str, list[float]] = {}
    for declared in DECLARED:
        with tempfile.TemporaryDirectory() as name:
            results = measure(declared, Path(name))
        peer = results.pop("no privacy")
        for privacy, result in results.items():
            liver.setdefault(privacy, []).append(report(declared, privacy, result, peer)[0])
    return int(any(values[-1] <= values[0] for values in liver.values()))


def measure(declared: int, folder: Path) -> dict[str, Result]:
    """What the study reaches with hospitals of a size, by its privacy."""
    patients = -int(-declared // SPLIT[0])
    size = Size(patients=patients, test_patients=TEST_PATIENTS)
    write_lesions(folder / "hospitals", size, seed=0, progress=silent)
    found = {}
    for privacy, changes in PRIVACY.items():
        path = folder / f"{privacy.replace(' ', '-')}.toml"
        changed("lesions", {"min_patients = 50": "min_patients = 10"} | changes, path)
        found[privacy] = run_study(
            RunSettings(path, folder / "hospitals", folder / path.stem, baselines=False)
        )
    return found


def report(declared: int, privacy: str, ours: Result, peer: Result) -> list[float]:
    """Print one comparison for each class; gives our Dice of each."""
    found = []
    for place, name in enumerate(ours.study.classes):
        dice, missed = (ours.metrics.of[each][place] for each in ("dice", "missed"))
        best = peer.metrics.of["dice"][place].value or 0.0
        found.append(dice.value or 0.0)
        line = {
            "name": f"lesions: {name}, {declared} patients a hospital, {privacy}",
            "ours": round(found[-1], 4),
            "peer": round(best, 4),
            "ratio": round(found[-1] / best, 4) if best else None,
            "unit": "mean Dice of test patients",
            "interval": [round(dice.low, 4), round(dice.high, 4)],
            "missed": round(missed.value or 0.0, 4),
        }
        print(json.dumps(line), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
