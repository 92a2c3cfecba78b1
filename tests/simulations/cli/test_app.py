from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import StudyError
from common.models.networks import build_model
from common.study.study_file import NoPrivacy, PatientPrivacy, load_study
from simulations.cli.app import app
from simulations.cli.studies import STUDIES, find_study
from simulations.reports.result import Result, write_result

SHIPPED = sorted(path.stem for path in STUDIES.glob("*.toml"))


def test_demo_and_pneumonia_ship() -> None:
    assert {"demo", "pneumonia"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_is_found_by_name_and_can_be_built(name: str) -> None:
    study = load_study(find_study(name))

    assert study.study.name == name
    assert build_model(study)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_costs_at_most_epsilon_8_at_delta_1e_5_or_says_that_it_has_no_privacy(
    name: str,
) -> None:
    study = load_study(find_study(name))
    privacy = study.privacy

    if study.study.title.endswith("without privacy"):
        assert isinstance(privacy, NoPrivacy)
        return
    assert isinstance(privacy, PatientPrivacy)
    assert privacy.epsilon <= 8.0
    assert privacy.delta <= 1e-5


def test_a_file_goes_before_a_shipped_study_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = find_study("demo")
    Path("demo").write_text("")

    assert shipped == STUDIES / "demo.toml"
    assert find_study("demo") == Path("demo")


def test_a_path_that_is_not_there_is_left_to_the_reader_of_studies() -> None:
    assert find_study("nowhere/my.toml") == Path("nowhere/my.toml")


def test_an_unknown_name_lists_the_shipped_studies() -> None:
    with pytest.raises(StudyError, match=r"demo, .*pneumonia"):
        find_study("demmo")


def test_studies_are_listed_with_title_and_path() -> None:
    said = CliRunner().invoke(app, ["studies"]).output

    for name in SHIPPED:
        assert f"{name}  {load_study(find_study(name)).study.title}" in said
        assert f"{name}.toml" in said


def test_the_commands_are_those_of_the_guide() -> None:
    said = CliRunner().invoke(app, ["--help"]).output

    assert all(command in said for command in ("run", "demo", "studies", "hospitals"))


def test_a_demo_that_was_finished_is_shown_again(tmp_path: Path, made_result: Result) -> None:
    write_result(tmp_path, made_result)
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)]).output

    assert "holds a finished run. To repeat it, add --fresh" in said
    assert "NOT PRIVATE: KNOWN KEY" in said
    assert "Shared model" in said
    assert "0.900" in said
