"""A person's mistake: one screen that says what to do, exit code 2, nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import SITES, Simulate, study_text

SCREEN = 24
Spoil = Callable[[Path], None]


@pytest.fixture
def spoilt(hospitals: Path, tmp_path: Path) -> Path:
    """Hospitals that a test may change."""
    folder = tmp_path / "hospitals"
    shutil.copytree(hospitals, folder)
    return folder


def without_labels(folder: Path) -> None:
    (folder / "birch" / "labels.csv").unlink()


def with_another_label(folder: Path) -> None:
    path = folder / "birch" / "labels.csv"
    path.write_text(path.read_text().replace(",bright", ",purple", 1))


def without_dicom(folder: Path) -> None:
    shutil.rmtree(folder / "birch" / "images")
    (folder / "birch" / "images").mkdir()
    (folder / "birch" / "images" / "notes.txt").write_text("none here")


def without_test_labels(folder: Path) -> None:
    (folder / "test" / "labels.csv").unlink()


def without_manifest(folder: Path) -> None:
    (folder / "hospitals.json").unlink()


def without_known_key(folder: Path) -> None:
    path = folder / "cedar" / "site.toml"
    path.write_text(path.read_text().replace("allow_known_key = true", "allow_known_key = false"))


def with_a_lower_limit(folder: Path) -> None:
    path = folder / "cedar" / "site.toml"
    path.write_text(
        path.read_text().replace("max_epsilon_per_study = 8.0", "max_epsilon_per_study = 2.0")
    )


HOSPITALS: dict[Spoil, tuple[str, list[str]]] = {
    without_labels: ("archive", ["labels.csv", "birch"]),
    with_another_label: ("archive", ["labels.csv", "dark", "bright"]),
    without_dicom: ("archive", ["no DICOM", "birch"]),
    without_test_labels: ("archive", ["labels.csv", "test"]),
    without_manifest: ("folder", ["not a folder of hospitals", "consilium-sim hospitals"]),
    without_known_key: ("policy", ["allow_known_key", "cedar"]),
    with_a_lower_limit: ("policy", ["max_epsilon_per_study", "cedar", "change the study"]),
}
"""What is wrong where, and what is said of it."""


@pytest.mark.matrix(spoil=lambda spoil: HOSPITALS[spoil][0])
@pytest.mark.parametrize("spoil", HOSPITALS, ids=lambda spoil: spoil.__name__)
def test_hospitals_that_cannot_be_used(
    spoil: Spoil, spoilt: Path, simulate: Simulate, tmp_path: Path
) -> None:
    spoil(spoilt)
    _, words = HOSPITALS[spoil]
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(study_text())
    done = simulate("run", study, "--hospitals", spoilt, "--out", run)

    assert done.returncode == 2
    assert one_screen(done.stderr)
    assert all(word in done.stderr for word in words), done.stderr
    assert not run.exists()


def test_an_error_is_not_hidden_by_the_hospitals_that_are_open(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    """The test set is read last: the hospitals then have files in the folder that is removed."""
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(study_text(data={"modalities": ["MR"]}))
    done = simulate("run", study, "--hospitals", hospitals, "--out", run)

    assert done.returncode == 2
    shown = done.stderr[done.stderr.index("error: ") :]
    assert one_screen(shown)
    assert "wrong-modality" in shown
    assert "Traceback" not in done.stderr
    assert not run.exists()


@dataclass(frozen=True)
class Mistake:
    """A study that cannot be run: what finds it, what is in it, and what is said of it."""

    finder: str
    changes: dict[str, dict[str, Any]]
    words: tuple[str, ...]


STUDIES = {
    "unknown key": Mistake("file", {"data": {"colour": "red"}}, ("data.colour", "unknown key")),
    "unknown section": Mistake("file", {"dater": {"size": 1}}, ("dater", "did you mean data?")),
    "epsilon out of reach": Mistake(
        "accountant",
        {"privacy": {"epsilon": 0.001}},
        ("cannot be reached", "allow epsilon", "rounds"),
    ),
    "too few patients": Mistake(
        "hospital",
        {"data": {"min_patients": 31}},
        ("fewer patients", "alder", "30", "at least 31"),
    ),
    "image size too small": Mistake(
        "model", {"model": {"widths": [4, 4, 4, 4, 4]}}, ("image", "16x16", "32x32 or larger")
    ),
    "another data set": Mistake(
        "hospital", {"data": {"dataset": "circles"}}, ("circles", "squares", "alder")
    ),
    "more sites than there are": Mistake(
        "hospital", {"aggregation": {"min_sites": 4}}, ("3", "at least 4")
    ),
}


@pytest.mark.matrix(mistake=lambda mistake: mistake.finder)
@pytest.mark.parametrize("mistake", STUDIES.values(), ids=STUDIES)
def test_studies_that_cannot_be_run(
    mistake: Mistake, hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, run = tmp_path / "study.toml", tmp_path / "run"
    changes, words = mistake.changes, mistake.words
    study.write_text(study_text(**changes))
    done = simulate("run", study, "--hospitals", hospitals, "--out", run)

    assert done.returncode == 2
    assert one_screen(done.stderr)
    assert all(word in done.stderr for word in words), done.stderr
    assert not run.exists()


@pytest.mark.long
def test_a_checkpoint_of_another_study_is_not_gone_on_with(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, other, run = tmp_path / "study.toml", tmp_path / "other.toml", tmp_path / "run"
    study.write_text(study_text())
    other.write_text(study_text(training={"learning_rate": 2.0}))
    words = ("--hospitals", hospitals, "--out", run, "--no-baselines")
    simulate("run", study, *words, environment={"CONSILIUM_KILL_AT": "checkpoint.written:1"})
    before = contents(run)
    done = simulate("run", other, *words, "--resume")
    of_another_seed = simulate("run", study, *words, "--resume", "--seed", "1")

    assert done.returncode == of_another_seed.returncode == 2
    assert one_screen(done.stderr)
    assert "belong to another study" in done.stderr
    assert "seed" in of_another_seed.stderr
    assert contents(run) == before


def test_a_folder_with_something_else_in_it_is_left_alone(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(study_text())
    run.mkdir()
    (run / "thesis.txt").write_text("precious")
    new = simulate("run", study, "--hospitals", hospitals, "--out", run)
    resumed = simulate("run", study, "--hospitals", hospitals, "--out", run, "--resume")

    assert new.returncode == resumed.returncode == 2
    assert "not empty" in new.stderr
    assert "does not hold a run" in resumed.stderr
    assert contents(run) == {"thesis.txt": b"precious"}


@pytest.mark.matrix(order=lambda order: order.count("alder"))
@pytest.mark.parametrize("order", ["alder,birch", "alder,birch,cedar,cedar", "alder,birch,oak"])
def test_an_order_that_does_not_name_every_hospital_once(
    order: str, hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(study_text())
    done = simulate("run", study, "--hospitals", hospitals, "--out", run, "--site-order", order)

    assert done.returncode == 2
    assert ", ".join(SITES) in done.stderr
    assert not run.exists()


def test_a_study_that_is_neither_a_file_nor_shipped(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    done = simulate("run", "demmo", "--hospitals", hospitals, "--out", tmp_path / "run")

    assert done.returncode == 2
    assert "demo" in done.stderr
    assert "pneumonia" in done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def one_screen(said: str) -> bool:
    return said.startswith("error: ") and "Traceback" not in said and said.count("\n") <= SCREEN
