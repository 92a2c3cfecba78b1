"""The whole command on tiny hospitals, and on a mechanism in which a fault was planted."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import simulations.audit.audit
from common.errors import CheckpointError, StudyError
from simulations.audit.audit import audit
from simulations.audit.audit_settings import AuditSettings, Which
from simulations.audit.mechanism import audit_mechanism
from simulations.audit.parts import PRODUCTION
from simulations.cli.app import app
from tests.integration.conftest import SITES, STUDY, study_text, write_hospitals
from tests.planted_faults import halved_noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hospitals and a study of eight steps."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "study.toml").write_text(study_text(training={"rounds": 8}))
    write_hospitals(folder / "hospitals")
    return folder


def run(folder: Path, out: Path, *options: str) -> tuple[int, str]:
    arguments = ["audit", str(folder / "study.toml"), "--hospitals", str(folder / "hospitals")]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out), *options])
    return result.exit_code, result.stdout


@pytest.fixture(scope="module")
def sound(folder: Path) -> tuple[int, str]:
    """Both audits of the sites' own code."""
    options = ("--canaries", "8", "--repetitions", "4", "--threads", "1")
    return run(folder, folder / "sound", *options)


@pytest.mark.long
def test_a_sound_study_survives_and_the_command_exits_with_0(sound: tuple[int, str]) -> None:
    code, said = sound

    assert code == 0
    assert said.startswith("NOT PRIVATE: KNOWN KEY")
    assert "the claim survived   95 % confidence in all bounds together" in said
    assert all(site in said for site in SITES)
    assert "members caught:" in said


PARTS = {
    "one release": {
        "model": {**dict.fromkeys(STUDY["model"]), "name": "scattering", "projection": 6},
        "training": {**dict.fromkeys(STUDY["training"]), "method": "one-shot"},
        "aggregation": {"strategy": "fedavg", "average_decay": 0.0},
    },
    "adapters": {
        "model": {"widths": [4], "trainable": ["head"], "adapters": 1},
        "training": {"rounds": 4},
    },
}


@pytest.mark.long
@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS)
def test_a_study_that_trains_a_part_survives_and_fails_with_half_of_its_noise(
    changes: dict[str, dict[str, Any]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "study.toml").write_text(study_text(**changes))
    (tmp_path / "hospitals").symlink_to(folder / "hospitals")
    options = ("--canaries", "8", "--repetitions", "4", "--threads", "1")
    code, said = run(tmp_path, tmp_path / "sound", *options)
    assert code == 0, said
    assert "members caught:" in said
    faulty = functools.partial(audit_mechanism, parts=replace(PRODUCTION, noised=halved_noise))
    monkeypatch.setattr(simulations.audit.audit, "audit_mechanism", faulty)
    code, said = run(tmp_path, tmp_path / "faulty", "--only", "mechanism", "--repetitions", "40")
    assert code == 1, said


@pytest.mark.long
def test_terminal_file_and_page_say_the_same(sound: tuple[int, str], folder: Path) -> None:
    found = json.loads((folder / "sound" / "audit.json").read_text())
    page = (folder / "sound" / "audit.html").read_text()
    said = " ".join(sound[1].split())  # a cell may be wrapped

    assert found["survived"] is True
    assert [one["site"] for one in found["mechanism"]] == list(SITES)
    assert found["one_run"]["canaries"] == 8 * len(SITES)
    for one in found["mechanism"]:
        for bound in one["bounds"]:
            assert bound["detail"] in said
            assert bound["detail"] in page
    assert "the claim survived" in page
    assert (folder / "sound" / "figures" / "membership.png").exists()


@pytest.mark.long
def test_allowed_failures_add_up_to_what_the_confidence_leaves(
    sound: tuple[int, str], folder: Path
) -> None:
    del sound
    found = json.loads((folder / "sound" / "audit.json").read_text())
    bounds = [bound for one in found["mechanism"] for bound in one["bounds"]]
    bounds += found["one_run"]["bounds"]

    assert sum(1 - bound["confidence"] for bound in bounds) == pytest.approx(0.05)


@pytest.mark.long
def test_halved_noise_breaks_the_claim_and_the_command_exits_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(PRODUCTION, noised=halved_noise)
    faulty = functools.partial(audit_mechanism, parts=half)
    monkeypatch.setattr(simulations.audit.audit, "audit_mechanism", faulty)

    code, said = run(folder, folder / "half", "--only", "mechanism", "--repetitions", "6")

    assert code == 1
    assert "THE CLAIM IS BROKEN" in said
    assert "THE CLAIM IS BROKEN" in (folder / "half" / "audit.html").read_text()
    assert json.loads((folder / "half" / "audit.json").read_text())["survived"] is False


def test_a_study_without_privacy_has_no_claim_to_audit(tmp_path: Path, folder: Path) -> None:
    text = study_text(privacy={"mode": "none", "epsilon": None, "delta": None})
    (tmp_path / "open.toml").write_text(text)
    settings = AuditSettings(tmp_path / "open.toml", folder / "hospitals", tmp_path / "out")

    with pytest.raises(StudyError, match="claims no privacy"):
        audit(settings)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    settings = AuditSettings(
        folder / "study.toml", folder / "hospitals", tmp_path, only=Which.MECHANISM
    )

    with pytest.raises(CheckpointError, match="folder is not empty"):
        audit(settings)
