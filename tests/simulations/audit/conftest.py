"""A small study for audits, and a job that nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from common.privacy.mechanisms import PatientMechanism, mechanism
from common.process.progress import Tracker, silent
from common.study.study_file import Study
from tests.common.studies import small_study

DECLARED = 100


def audited(**sections: dict[str, Any]) -> tuple[Study, PatientMechanism]:
    """Sixteen steps of 25 of 100 patients, and the mechanism that is calibrated for them."""
    changes = {"training": {"rounds": 8, "local_steps": 2, "batch_size": 25}} | sections
    study = small_study(**changes)
    planned = mechanism(study, DECLARED, 2 * DECLARED)
    assert isinstance(planned, PatientMechanism)
    return study, planned


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a site computes by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job() -> Iterator[Tracker]:
    with silent("audit", 1) as quiet:
        yield quiet
