"""The commands of whoever has a model package, as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.wire.enrolment import CoordinatorCard
from tests.client.prediction.models import PATIENTS, archive
from tests.common.package.packages import KEY, kept, package
from tests.common.wire.test_enrolment import certificate

GUARDED = """
import socket, sys

def watch(event, arguments):
    if event == "socket.connect" and arguments[0].family != socket.AF_UNIX:
        print("CONNECTS", arguments[1], file=sys.stderr)
        import os
        os._exit(99)

sys.addaudithook(watch)
from client.cli.app import main
sys.argv = ["consilium-site", *sys.argv[1:]]
main()
"""


def typed(*arguments: object, code: int = 0, cwd: Path) -> str:
    """What a command says, in a process that ends where it opens a connection."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return kept(tmp_path, package())


def test_predict_says_what_it_found_and_opens_no_connection(model: Path, tmp_path: Path) -> None:
    images, out = archive(tmp_path / "archive"), tmp_path / "out"

    said = typed("predict", model, "--images", images, "--out", out, "--no-dicom", cwd=tmp_path)

    assert "Research use only" in said
    assert f"{sum(PATIENTS.values())} examinations" in said
    assert (out / "predictions.csv").exists()
    assert "not known here" in said


def test_evaluate_says_how_the_model_does_here_and_opens_no_connection(
    model: Path, tmp_path: Path
) -> None:
    images, out = archive(tmp_path / "archive"), tmp_path / "out"
    labels = images.parent / "labels.csv"

    said = typed(
        *("evaluate", model, "--images", images, "--labels", labels, "--out", out), cwd=tmp_path
    )

    assert f"{len(PATIENTS)} patients of this hospital, some may have been in training" in " ".join(
        said.split()
    )
    assert "AUC" in said
    assert "not to leave the hospital" in said
    assert sorted(each.name for each in out.iterdir()) == [
        "local.json",
        "patients.csv",
        "patients.parquet",
    ]


def test_the_card_is_shown_as_text(model: Path, tmp_path: Path) -> None:
    said = typed("model-card", model, cwd=tmp_path)

    assert "Intended use" in said


def test_a_bundle_says_how_it_is_run(model: Path, tmp_path: Path) -> None:
    said = typed("bundle", model, "--out", tmp_path / "bundle", cwd=tmp_path)

    assert "monai.bundle run" in said
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "normal",
        "1": "pneumonia",
    }


@pytest.mark.long
def test_a_bundle_gives_the_same_scores_by_monais_own_command(model: Path, tmp_path: Path) -> None:
    import csv

    import numpy as np

    images, out, bundle = archive(tmp_path / "a"), tmp_path / "out", tmp_path / "bundle"
    typed("predict", model, "--images", images, "--out", out, "--no-dicom", cwd=tmp_path)
    typed("bundle", model, "--out", bundle, cwd=tmp_path)

    subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run"),
            *("--config_file", "configs/inference.json", "--dataset_dir", str(images)),
        ],
        check=True,
        capture_output=True,
        cwd=bundle,
    )

    with (out / "images.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            scores = np.load(bundle / "output" / f"{row['file']}.npy")
            assert scores[0, 1] == pytest.approx(float(row["pneumonia"]), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--at", "luck"), "no such operating point"),
        (("--cost", "5"), "one of the two is missing"),
        (("--reasons", "magic"), "no such method"),
        (("--local", "nowhere.json"), "nowhere.json"),
    ],
)
def test_a_mistake_is_an_instruction(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    images = archive(tmp_path / "archive")

    told = typed(
        *("predict", model, "--images", images, "--out", tmp_path / "out", *arguments),
        code=2,
        cwd=tmp_path,
    )

    assert said in told


def test_the_cheapest_threshold_is_one_that_was_released(model: Path, tmp_path: Path) -> None:
    images = archive(tmp_path / "archive")

    typed(
        *("predict", model, "--images", images, "--out", tmp_path / "out", "--no-dicom"),
        *("--cost", "5", "--prevalence", "0.1"),
        cwd=tmp_path,
    )


@pytest.mark.parametrize(("key", "code"), [(KEY.public, 0), ("ab" * 32, 2)])
def test_a_site_takes_a_package_of_its_own_coordinator_alone(
    model: Path, tmp_path: Path, key: str, code: int
) -> None:
    images = archive(tmp_path / "archive")
    made = ("--site", tmp_path / "site.toml")
    typed(
        *(*made, "init", "north", "--images", images, "--declared-patients", "15"),
        *("--labels", images.parent / "labels.csv"),
        cwd=tmp_path,
    )
    card = CoordinatorCard(
        name="hub", address="hub.example.org:9092", ca=certificate(authority=True), signing_key=key
    )
    (tmp_path / "state" / "COORDINATOR.json").write_text(card.text)

    said = typed(*made, "model-card", model, code=code, cwd=tmp_path)

    assert ("Signed by your coordinator, hub" in said) == (code == 0)
    if code:
        assert "has not signed this package" in said
        assert "not by hub" in typed(*made, "model-card", model, "--any-signer", cwd=tmp_path)
