"""What the cap on a sample costs in utility: its part of delta makes noise a little larger.

A line for each shipped study and a hospital of 1000 declared patients: the noise multiplier with
the cap, beside the one without. Then, where PneumoniaMNIST is at hand, its test AUC over a few
divisions with the cap and without: differences there are mostly the chance of the noise, which
the spread tells. Without the cap means with almost no part of delta reserved for it, so that a
sample may be of any size.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Final

import common.privacy.cap
from benchmarks._medmnist import data_file, measure
from common.privacy.accounting import calibrate
from common.privacy.cap import composed
from common.privacy.mechanisms import PatientMechanism, mechanism
from common.study.study_file import PatientPrivacy, load_study
from simulations.cli.studies import find_study

STUDIES: Final = ("demo", "breast", "pneumonia", "pneumonia-epsilon3", "pneumonia-epsilon1")
TRAINED: Final = ("pneumonia", "pneumonia-epsilon1")
DECLARED: Final = 1000
SEEDS: Final = (0, 1, 2)
_NEXT_TO_NOTHING: Final = 1e-300


def noise(name: str) -> dict[str, object]:
    """The noise multiplier of a study with the cap and without, and where the cap lies."""
    study = load_study(find_study(name))
    privacy, planned = study.privacy, mechanism(study, DECLARED, 2 * DECLARED)
    assert isinstance(privacy, PatientPrivacy)
    assert isinstance(planned, PatientMechanism)
    steps, rate = study.training.rounds * study.training.local_steps, planned.step.sampling_rate
    ours = planned.step.noise_multiplier
    peer = calibrate(privacy.epsilon, privacy.delta, rate, steps)
    return {
        "name": f"{name}, noise with the cap on a sample, against without",
        "ours": ours,
        "peer": peer,
        "ratio": round(ours / peer, 4),
        "unit": "noise multiplier",
        "delta composed": composed(privacy.delta),
        "patients in a step": round(planned.divisor, 1),
        "cap": planned.most_sampled,
        "most patients": 2 * DECLARED,
    }


def auc(study: str, seed: int, data: Path, *, capped: bool) -> float:
    """Test AUC of one run; call it in a process of its own, which stays as it is left here."""
    if not capped:
        vars(common.privacy.cap)["SHARE"] = _NEXT_TO_NOTHING
    return measure(study, seed, data)["AUC"]


def compare(study: str, data: Path) -> dict[str, object]:
    """Mean test AUC over the seeds, with the cap and without."""
    spawn = multiprocessing.get_context("spawn")
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = [
            [pool.submit(auc, study, seed, data, capped=capped) for seed in SEEDS]
            for capped in (True, False)
        ]
        ours, peer = ([each.result() for each in row] for row in runs)
    return {
        "name": f"{study}, mean of {len(SEEDS)} seeds, with the cap on a sample, against without",
        "ours": round(mean(ours), 4),
        "peer": round(mean(peer), 4),
        "ratio": round(mean(ours) / mean(peer), 4),
        "unit": "test AUC",
        "spread": round(stdev(ours), 4),
        "spread of peer": round(stdev(peer), 4),
    }


def main() -> int:
    """Print what the cap costs; skips what needs PneumoniaMNIST where there is none."""
    for name in STUDIES:
        print(json.dumps(noise(name)), flush=True)
    data = data_file("pneumoniamnist")
    if not data.exists():
        print(f"skipped: no {data.name}; PNEUMONIAMNIST=FILE names it", file=sys.stderr)
        return 0
    for study in TRAINED:
        print(json.dumps(compare(study, data)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
