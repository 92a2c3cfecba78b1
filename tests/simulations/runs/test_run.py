"""One small run in this process; whole runs of the command are in tests/integration."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import CheckpointError
from common.numerics import Ticks
from common.package.package import read
from common.study.study_file import PatientPrivacy, load_study
from simulations.reports.result import CurvePoint, Result, read_result, write_result
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings, Watcher
from tests.integration.conftest import SITES, study_text, write_hospitals


class Witness(Watcher):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.points: list[tuple[CurvePoint | None, float | None]] = []

    def resumed(self, number: int) -> None:
        self.told.append(("resumed", number))

    def round_done(self, number: int, point: CurvePoint | None, spent: float | None) -> None:
        self.told.append(("round", number))
        self.points.append((point, spent))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    folder = tmp_path_factory.mktemp("simulation")
    (folder / "study.toml").write_text(study_text())
    write_hospitals(folder / "hospitals")
    return RunSettings(
        study=folder / "study.toml",
        hospitals=folder / "hospitals",
        run=folder / "run",
        baselines=False,
        threads=2,
        command="consilium-sim run study.toml",
    )


@pytest.fixture(scope="module")
def witness() -> Witness:
    return Witness()


@pytest.fixture(scope="module")
def result(settings: RunSettings, witness: Witness) -> Result:
    return run_study(settings, witness)


def test_who_watches_is_told_of_every_round_with_its_figures_and_its_cost(
    result: Result, witness: Witness
) -> None:
    assert witness.told == [("resumed", 0), ("round", 1), ("round", 2), ("round", 3)]
    assert tuple(point for point, _ in witness.points) == result.shared.curve
    costs = [spent for _, spent in witness.points if spent is not None]
    assert costs == sorted(costs)
    assert costs[-1] == max(site.epsilon_training or 0 for site in result.per_site.values())


def test_what_the_figures_say_against_the_model_is_a_warning(result: Result) -> None:
    """Three private rounds on a few patients teach nothing."""
    told = result.shared.doubts
    assert told
    assert result.warnings[-len(told) :] == told


def test_what_is_returned_is_what_was_written(result: Result, settings: RunSettings) -> None:
    assert read_result(settings.run) == result


def test_the_last_point_of_the_curve_is_the_result(result: Result) -> None:
    last = result.shared.curve[-1]

    assert last.value == result.metrics.main.value


def test_the_study_that_was_run_lies_beside_its_result(
    result: Result, settings: RunSettings
) -> None:
    study = load_study(settings.run / "study.toml")

    assert study.study.name == result.study.name == "tiny"
    assert isinstance(study.privacy, PatientPrivacy)


def test_the_threads_asked_for_are_in_every_sites_numerics_record(result: Result) -> None:
    assert {site: record.threads for site, record in result.numerics.items()} == dict.fromkeys(
        SITES, 2
    )


def test_epsilon_spent_rises_to_what_the_plan_says(result: Result) -> None:
    for site in result.per_site.values():
        rounds, costs = zip(*site.spent, strict=True)
        assert rounds == (1, 2, 3)
        assert list(costs) == sorted(costs)
        assert costs[-1] == site.epsilon_training
        assert 7.9 < costs[-1] <= 8.0


def test_seconds_are_counted_by_phase(result: Result) -> None:
    assert {"decode", "rounds", "report"} <= set(result.seconds)


@pytest.mark.long
def test_a_run_like_an_earlier_one_takes_its_threads_and_kernels_and_comes_to_the_same_weights(
    result: Result, settings: RunSettings, tmp_path: Path
) -> None:
    """The hospitals' kernels are measured here, so that only the record can make runs agree."""
    shutil.copytree(settings.hospitals, tmp_path / "hospitals")
    for name in SITES:
        site = tmp_path / "hospitals" / name / "site.toml"
        site.write_text(site.read_text().replace('"modelled"', '"measured"'))
    fresh = replace(settings, hospitals=tmp_path / "hospitals", run=tmp_path / "first", threads=1)
    first = run_study(replace(fresh, like=settings.run))
    assert first.numerics == result.numerics
    assert first.final_weights_sha256 == result.final_weights_sha256

    measured = run_study(replace(fresh, run=tmp_path / "measured"))
    again = run_study(replace(fresh, run=tmp_path / "again", like=tmp_path / "measured"))
    assert again.numerics == measured.numerics
    assert again.final_weights_sha256 == measured.final_weights_sha256


@pytest.mark.long
def test_recorded_ticks_stay_in_the_plan_and_nobody_waits_for_them(
    result: Result, settings: RunSettings, tmp_path: Path
) -> None:
    """A plan's hash keys its noise: with other ticks it would be another run.

    Three hospitals would wait twenty minutes in each round.
    """
    ticks = Ticks(train=1_200_000, evaluate=1_200_000)
    slow = {
        site: record.model_copy(update={"ticks": ticks}) for site, record in result.numerics.items()
    }
    (tmp_path / "slow").mkdir()
    write_result(tmp_path / "slow", result.model_copy(update={"numerics": slow}))
    first = run_study(replace(settings, run=tmp_path / "first", like=tmp_path / "slow"))
    assert first.numerics == slow
    assert first.final_weights_sha256 != result.final_weights_sha256
    again = run_study(replace(settings, run=tmp_path / "again", like=tmp_path / "first"))
    assert again.final_weights_sha256 == first.final_weights_sha256


def test_a_run_can_be_like_none_but_a_finished_one_of_the_same_hospitals(
    result: Result, settings: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no result yet"):
        run_study(replace(settings, run=tmp_path / "run", like=tmp_path / "nowhere"))
    other = tmp_path / "other"
    other.mkdir()
    record = next(iter(result.numerics.values()))
    write_result(other, result.model_copy(update={"numerics": {"elsewhere": record}}))
    with pytest.raises(CheckpointError, match="used other hospitals"):
        run_study(replace(settings, run=tmp_path / "run", like=other))


def test_a_hospital_of_which_hardly_anything_can_be_used_is_named_first(
    settings: RunSettings, tmp_path: Path
) -> None:
    shutil.copytree(settings.hospitals, tmp_path / "hospitals")
    images = sorted((tmp_path / "hospitals" / SITES[0] / "images").rglob("*.dcm"))
    for path in images[2:]:
        path.write_bytes(b"no image")
    found = run_study(replace(settings, hospitals=tmp_path / "hospitals", run=tmp_path / "run"))

    (said,) = (line for line in found.warnings if line.startswith("FEW PATIENTS"))
    assert said.startswith(f"FEW PATIENTS AT {SITES[0]}: ")
    assert f"not used: {len(images) - 2} not-dicom" in said


def test_a_run_whose_package_cannot_be_made_tells_its_result(
    result: Result, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.package.graph.OPERATORS", frozenset())

    again = run_study(replace(settings, resume=True, package=True))

    assert again.final_weights_sha256 == result.final_weights_sha256
    (said,) = (note for note in again.warnings if "package was not made" in note)
    assert "operators of no model of ours" in said
    assert not (settings.run / "model.consilium").exists()


def test_a_run_writes_its_package_where_it_is_wanted(result: Result, settings: RunSettings) -> None:
    path = settings.run / "model.consilium"
    assert not path.exists()

    again = run_study(replace(settings, resume=True, package=True))

    package = read(path)
    assert package.statement.weights == result.final_weights_sha256
    assert again.final_weights_sha256 == result.final_weights_sha256
    (tested,) = [each for each in package.statement.figures if each.on == "test set"]
    assert tested.figures == result.metrics.figures
    assert any("everybody knows" in each for each in package.statement.doubts)
    assert not package.statement.private
    assert package.statement.finished == ""
