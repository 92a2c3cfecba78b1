"""Which detector catches which planted fault: the table of ``docs/audit.md``.

Prints the table to standard error and one line of JSON a fault to standard output: how many
detectors noticed (``ours``) of how many there are (``peer``).
"""

from __future__ import annotations

import json
import sys
from typing import Final

import torch

from common.privacy.mechanisms import PatientMechanism, mechanism
from common.privacy.randomness import known_secret
from common.process.progress import silent
from common.study.study_file import Study, load_study
from simulations.audit.mechanism import audit_mechanism
from simulations.audit.parts import PRODUCTION
from simulations.audit.premises import NOISE, PART, SAMPLES, check_all
from simulations.cli.studies import find_study
from tests.planted_faults import FAULTS, Fault

STUDY: Final = "pneumonia"
DECLARED: Final = 1040
FAILURE: Final = 0.05
REPETITIONS: Final = 8
MECHANISM: Final = "mechanism audit"
DETECTORS: Final = (MECHANISM, SAMPLES, NOISE, PART)
SOUND: Final = (
    Fault("none", PRODUCTION),
    Fault("none, four images a patient", PRODUCTION, images_per_patient=4),
)


def noticed(fault: Fault, study: Study, *, seed: int, repetitions: int) -> list[str]:
    """The detectors that a fault sets off."""
    afflicted = fault.afflicted(study)
    planned = mechanism(afflicted, DECLARED, 2 * DECLARED)
    assert isinstance(planned, PatientMechanism)
    key = known_secret(seed, fault.name, "audit")
    with silent("tiny studies", 0) as job:
        found = audit_mechanism(
            afflicted,
            planned,
            site="site",
            key=key,
            failure=FAILURE,
            job=job,
            repetitions=repetitions,
            parts=fault.parts,
        )
    checks = check_all(afflicted, planned, site="site", key=key, parts=fault.parts)
    broken = [] if found.survived else [MECHANISM]
    return broken + [check.name for check in checks if not check.passed]


def main() -> int:
    """Print the table.

    Returns:
        1 where a fault goes unnoticed or a sound mechanism sets a detector off.
    """
    torch.set_num_threads(1)
    study = load_study(find_study(STUDY))
    print(f"| planted fault | {' | '.join(DETECTORS)} |", file=sys.stderr)
    print(f"| --- |{' --- |' * len(DETECTORS)}", file=sys.stderr)
    missed = False
    for fault in (*SOUND, *FAULTS):
        caught = noticed(fault, study, seed=0, repetitions=REPETITIONS)
        marks = " | ".join("caught" if name in caught else "–" for name in DETECTORS)
        print(f"| {fault.name} | {marks} |", file=sys.stderr, flush=True)
        line = {
            "name": f"planted fault: {fault.name}",
            "ours": len(caught),
            "peer": len(DETECTORS),
            "ratio": len(caught) / len(DETECTORS),
            "unit": "detectors",
            "caught_by": caught,
        }
        print(json.dumps(line), flush=True)
        missed |= bool(caught) == (fault in SOUND)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
