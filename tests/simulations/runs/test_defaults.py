"""A study that says what, on which data and how private, and leaves the rest out."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.study.study_file import PatientPrivacy, load_study
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.common.studies import toml
from tests.integration.conftest import STUDY, write_hospitals


@pytest.mark.long
def test_a_study_that_leaves_training_settings_out_is_trained_to_its_end(tmp_path: Path) -> None:
    """It keeps its epsilon, and sees which images have a bright square."""
    said = {name: STUDY[name] for name in ("study", "task", "data", "privacy")}
    path = tmp_path / "study.toml"
    path.write_text(toml(said))
    study = load_study(path)
    assert isinstance(study.privacy, PatientPrivacy)
    write_hospitals(tmp_path / "hospitals")
    result = run_study(
        RunSettings(path, tmp_path / "hospitals", tmp_path / "run", baselines=False, threads=1)
    )
    assert result.study.rounds == study.training.rounds
    assert result.study.strategy == "fedavgm"
    assert all(cost is not None and cost <= 8.0 for cost in result.epsilon.values())
    assert (result.metrics.main.value or 0.0) > 0.8
