"""The same study ends with the same weights, whatever the order, and whatever the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import SITES, Simulate, study_text


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(study_text())
    return path


def result(run: Path) -> dict[str, Any]:
    """What a run found, without what may differ: how long it took and what was typed."""
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    assert found.pop("seconds")
    assert found.pop("command").startswith("consilium-sim run")
    return found


@pytest.fixture(scope="module")
def first(
    study: Path, hospitals: Path, simulate: Simulate, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    done = simulate("run", study, "--hospitals", hospitals, "--out", run)
    assert done.returncode == 0, done.stderr
    return run


def test_the_same_seed_gives_the_same_result_in_another_order_of_asking(
    first: Path, study: Path, hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    order = ",".join(reversed(SITES))
    again = simulate(
        *("run", study, "--hospitals", hospitals, "--out", tmp_path / "run"),
        *("--site-order", order, "--no-baselines"),
    )

    assert again.returncode == 0, again.stderr
    assert result(tmp_path / "run") == result(first) | {"baselines": []}


@pytest.mark.long
def test_another_seed_gives_other_weights(
    first: Path, study: Path, hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    other = simulate(
        *("run", study, "--hospitals", hospitals, "--out", tmp_path, "--seed", "1"),
        "--no-baselines",
    )

    assert other.returncode == 0, other.stderr
    found = result(tmp_path)
    assert found["final_weights_sha256"] != result(first)["final_weights_sha256"]
    assert found["baselines"] == []


def test_the_result_begins_with_what_is_not_private_and_prices_every_site(first: Path) -> None:
    found = result(first)

    assert found["warnings"][0].startswith("NOT PRIVATE: KNOWN KEY")
    assert set(found["epsilon"]) == set(found["per_site"]) == set(SITES)
    assert all(0 < epsilon <= 8 for epsilon in found["epsilon"].values())
    assert found["delta"] == 1e-5
    assert found["metrics"]["patients"] == 40
    auc = found["metrics"]["figures"]["auc"]
    assert auc["low"] <= auc["value"] <= auc["high"]
    assert len(found["federated_evaluation"]) == 1


def test_every_baseline_is_there_at_its_own_price(first: Path) -> None:
    found = [(each["kind"], each["site"], each["epsilon"]) for each in result(first)["baselines"]]

    assert [kind for kind, _, _ in found] == ["alone-private"] * 3 + ["alone"] * 3 + ["pooled"]
    assert [site for _, site, _ in found] == [*SITES, *SITES, None]
    assert all((epsilon is not None) == (kind == "alone-private") for kind, _, epsilon in found)


def test_report_pictures_and_checkpoints_are_written(first: Path) -> None:
    assert (first / "report.html").read_text().count("data:image/svg+xml") == 7
    assert len(list((first / "figures").glob("*.png"))) == 7
    assert list((first / "coordinator" / "checkpoints").glob("*.safetensors"))


def test_a_finished_run_that_is_resumed_stays_as_it_is_and_its_screen_is_shown_again(
    first: Path, study: Path, hospitals: Path, simulate: Simulate
) -> None:
    """What was gained, what it cost, and where the report is."""
    before = result(first)
    again = simulate("run", study, "--hospitals", hospitals, "--out", first, "--resume")

    assert again.returncode == 0, again.stderr
    assert result(first) == before
    said = again.stdout
    assert said.startswith("NOT PRIVATE: KNOWN KEY")
    assert "Shared model" in said
    assert "All data pooled" in said
    assert "epsilon, evaluation included, at delta 1e-05: alder " in said
    assert result(first)["final_weights_sha256"][:16] in said
    assert str(first / "report.html") in said
    assert len(said.splitlines()) <= 24


def test_a_study_without_privacy_says_so_first(
    hospitals: Path, simulate: Simulate, tmp_path: Path
) -> None:
    study, folder = tmp_path / "open.toml", tmp_path / "hospitals"
    study.write_text(study_text(privacy={"mode": "none", "epsilon": None, "delta": None}))
    copy_allowing_no_privacy(hospitals, folder)
    done = simulate(
        "run", study, "--hospitals", folder, "--out", tmp_path / "run", "--no-baselines"
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('NOT PRIVATE: the study says mode = "none"')
    assert result(tmp_path / "run")["epsilon"] == dict.fromkeys(SITES)


def copy_allowing_no_privacy(hospitals: Path, folder: Path) -> None:
    folder.mkdir()
    for path in hospitals.iterdir():
        (folder / path.name).symlink_to(path)
    for name in SITES:
        (folder / name).unlink()
        (folder / name).mkdir()
        for path in (hospitals / name).iterdir():
            (folder / name / path.name).symlink_to(path)
        text = (hospitals / name / "site.toml").read_text()
        (folder / name / "site.toml").unlink()
        (folder / name / "site.toml").write_text(f"{text}\nallow_no_privacy = true\n")
