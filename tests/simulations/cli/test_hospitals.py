"""The commands as a person types them, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def hospitals(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulations.cli.hospitals", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_synth_says_what_it_made(root: Path, tmp_path: Path) -> None:
    options = ["--patients", 13, "--test-patients", 4, "--size", 32, "--sites", 1]
    done = hospitals(root, "synth", "--out", tmp_path / "h", *options)
    assert done.returncode == 0, done.stderr
    assert "north" in done.stdout
    assert str(tmp_path / "h") in done.stdout
    assert "drawing hospitals" in done.stderr
    assert (tmp_path / "h" / "hospitals.json").is_file()


def test_synth_draws_lesions_with_masks(root: Path, tmp_path: Path) -> None:
    options = ["--patients", 13, "--test-patients", 4, "--size", 32, "--sites", 1]
    done = hospitals(root, "synth", "--subject", "lesions", "--out", tmp_path / "h", *options)
    assert done.returncode == 0, done.stderr
    assert "lesion" in done.stdout
    assert (tmp_path / "h" / "north" / "masks").is_dir()


def test_from_masks_takes_names_of_arrays_and_says_what_it_joined(
    root: Path, tmp_path: Path
) -> None:
    patient = np.repeat(np.arange(25), 2)
    np.savez(
        tmp_path / "x.npz",
        flair=np.zeros((50, 4, 4), np.uint8),
        marks=np.ones((50, 4, 4), np.uint8),
        who=patient,
        where=np.where(patient < 24, "Big", "Small"),
    )
    arrays = ["--images", "flair", "--masks", "marks", "--patient", "who", "--site", "where"]
    options = ["--classes", "tumour", "--dataset", "mine", "--modality", "MR", *arrays]
    done = hospitals(root, "from-masks", tmp_path / "x.npz", "--out", tmp_path / "h", *options)
    assert done.returncode == 0, done.stderr
    assert "[data.mine]" in (tmp_path / "h" / "big" / "site.toml").read_text()
    assert "The institution small has too few patients (1)" in done.stdout
    assert "tumour" in done.stdout


def test_from_npz_takes_classes_and_names(root: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        content[f"{part}_images"] = np.zeros((120, 4, 4), np.uint8)
        content[f"{part}_labels"] = np.tile([0, 1], 60)
    np.savez(tmp_path / "x.npz", **content)
    options = ["--sites", 1, "--classes", "well, ill", "--dataset", "mine", "--modality", "CR"]
    done = hospitals(root, "from-npz", tmp_path / "x.npz", "--out", tmp_path / "h", *options)
    assert done.returncode == 0, done.stderr
    assert "[data.mine]" in (tmp_path / "h" / "north" / "site.toml").read_text()
    assert (tmp_path / "h" / "test" / "labels.csv").read_text().count(",well\n") == 60
    assert "ill" in done.stdout


def test_a_folder_with_something_else_in_it_is_refused_with_exit_code_2(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = hospitals(root, "synth", "--out", tmp_path, "--patients", 13)
    assert done.returncode == 2
    assert "thesis.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_missing_file_is_exit_code_2(root: Path, tmp_path: Path) -> None:
    done = hospitals(root, "from-npz", tmp_path / "absent.npz", "--out", tmp_path / "h")
    assert done.returncode == 2
    assert "there is no such file" in done.stderr
    assert not (tmp_path / "h").exists()
