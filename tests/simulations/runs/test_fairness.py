"""The shared model at each hospital: its validation patients, all of them and nobody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from sklearn.metrics import roc_auc_score

from client.data.cohort import Part
from common.study.study_file import load_study
from simulations.archives.manifest import read_hospitals
from simulations.reports.result import Result, read_result
from simulations.runs.prepare import described
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings, coordinator_folder
from simulations.runs.testset import TestSet, figure_at, scored
from tests.integration.conftest import SITES, study_text, write_hospitals


def run_in(world: Path, split: str = "[0.8, 0.2, 0.0]") -> RunSettings:
    """The settings of a finished run; in the first hospital patients are divided like this."""
    (world / "study.toml").write_text(study_text(evaluation={"rounds": "none"}))
    (world / "hospitals").mkdir()
    write_hospitals(world / "hospitals")
    file = world / "hospitals" / SITES[0] / "site.toml"
    file.write_text(file.read_text().replace("[0.8, 0.2, 0.0]", split))
    asked = RunSettings(
        study=world / "study.toml",
        hospitals=world / "hospitals",
        run=world / "run",
        baselines=False,
        package=False,
        report=False,
        grid="process",
    )
    run_study(asked)
    return asked


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    return run_in(tmp_path_factory.mktemp("fairness"))


@pytest.fixture(scope="module")
def result(settings: RunSettings) -> Result:
    return read_result(settings.run)


def area(settings: RunSettings, name: str, part: Part) -> tuple[int, float]:
    """Patients of a part of a hospital, and scikit-learn's AUC of the final weights on them."""
    study, hospitals = load_study(settings.study), read_hospitals(settings.hospitals)
    (site,) = (each for each in described(settings, study, hospitals) if each.name == name)
    file = coordinator_folder(settings.run) / "final.safetensors"
    weights = safetensors.numpy.load_file(file)["weights"]
    with site.open() as opened:
        held = TestSet.of_part(opened.cohorts.read(study), part)
        scores, labels = [], []
        for outputs, targets in scored(study, weights, held):
            scores.append(float(outputs.softmax(-1)[:, 1].mean()))
            labels.append(int(targets[0]))
    return len(held.patients), float(roc_auc_score(labels, scores))


def test_each_hospital_has_the_figure_of_its_own_validation_patients(
    settings: RunSettings, result: Result
) -> None:
    assert set(result.at_sites) == set(result.per_site)
    for name, found in result.at_sites.items():
        patients, auc = area(settings, name, "validation")
        assert found.patients == patients
        assert found.figure.value is not None
        np.testing.assert_allclose(found.figure.value, auc)
        assert area(settings, name, "train")[0] != patients


def test_a_hospital_of_which_no_image_can_be_used_is_left_out(
    tmp_path: Path, settings: RunSettings
) -> None:
    study = load_study(settings.study)
    absent = study.model_copy(
        update={"data": study.data.model_copy(update={"modalities": ("MR",)})}
    )
    hospitals = read_hospitals(settings.hospitals)
    nowhere = replace(settings, run=tmp_path)
    with described(nowhere, study, hospitals)[0].open() as site:
        assert figure_at(absent, np.zeros(1, np.float32), site) is None


def test_a_run_draws_no_report_where_none_is_asked_for(settings: RunSettings) -> None:
    assert (settings.run / "result.json").exists()
    assert not (settings.run / "report.html").exists()
    assert not (settings.run / "figures").exists()


def test_a_hospital_without_validation_patients_has_none(tmp_path: Path) -> None:
    found = read_result(run_in(tmp_path, "[1.0, 0.0, 0.0]").run).at_sites
    assert set(found) == set(SITES[1:])
