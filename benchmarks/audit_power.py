"""How much the mechanism audit detects: its bounds on the sound mechanism, and with halved noise.

For the shipped studies at epsilon 3 and 8, at a hospital that declares 1040 patients, the audit is
run with twenty seeds on the site's own functions, and with twenty on the same with half the
noise. One line a comparison; ``peer`` is the claim.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean
from typing import Final

import torch

from common.privacy.mechanisms import PatientMechanism, mechanism
from common.privacy.randomness import known_secret
from common.process.progress import silent
from common.study.study_file import Study, load_study
from simulations.audit.findings import MechanismFinding
from simulations.audit.mechanism import audit_mechanism
from simulations.audit.parts import PRODUCTION, Parts
from simulations.cli.studies import find_study
from tests.planted_faults import halved_noise

STUDIES: Final = ("pneumonia-epsilon3", "pneumonia")
DECLARED: Final = 1040
SEEDS: Final = 20
REPETITIONS: Final = 14
FAILURE: Final = 0.05
HALF: Final = replace(PRODUCTION, noised=halved_noise)
LEAST_SHARE: Final = 0.5
MOST_ALARMS, FEWEST_ALARMS = 1, 19


def findings(study: Study, parts: Parts) -> Iterator[MechanismFinding]:
    """The audit's findings, one a seed."""
    planned = mechanism(study, DECLARED, 2 * DECLARED)
    assert isinstance(planned, PatientMechanism)
    for seed in range(SEEDS):
        key = known_secret(seed, "audit-power", "audit")
        with silent("tiny studies", 0) as job:
            yield audit_mechanism(
                study,
                planned,
                site="site",
                key=key,
                failure=FAILURE,
                job=job,
                repetitions=REPETITIONS,
                parts=parts,
            )


def main() -> int:
    """Print the bounds and how often the claim was called broken.

    Returns:
        1 where the audit's power is not as stated: the bound at least half the claim for every
        seed, and at most one false and at least nineteen true alarms of twenty.
    """
    torch.set_num_threads(1)
    missed = False
    for name in STUDIES:
        study = load_study(find_study(name))
        sound, half = list(findings(study, PRODUCTION)), list(findings(study, HALF))
        for words, found in (("as it is", sound), ("noise halved", half)):
            report(f"{name}, {words}, largest bound", found, [one.empirical for one in found])
            for place, bound in enumerate(found[0].bounds):
                values = [one.bounds[place].epsilon for one in found]
                report(f"{name}, {words}, {bound.name}", found, values)
        missed |= min(one.empirical / one.claimed for one in sound) < LEAST_SHARE
        missed |= sum(not one.survived for one in sound) > MOST_ALARMS
        missed |= sum(not one.survived for one in half) < FEWEST_ALARMS
    return int(missed)


def report(name: str, found: list[MechanismFinding], values: list[float]) -> None:
    """Print one comparison with the claim."""
    claimed = found[0].claimed
    line = {
        "name": name,
        "ours": round(mean(values), 3),
        "peer": round(claimed, 3),
        "ratio": round(mean(values) / claimed, 3),
        "unit": "epsilon",
        "least": round(min(values), 3),
        "most": round(max(values), 3),
        "broken": sum(value >= claimed for value in values),
        "seeds": len(values),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
