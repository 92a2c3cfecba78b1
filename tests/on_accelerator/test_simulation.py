"""A simulation with one hospital on a card: it ends as one on the processor, but for rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings, coordinator_folder
from tests.integration.conftest import SITES, study_text, write_hospitals
from tests.on_accelerator.accelerator import Accelerator

ALL: dict[str, dict[str, object]] = {
    "privacy": {"mode": "none", "epsilon": None, "delta": None},
    "training": {"batch_size": 30},
}
"""Everybody is drawn and nothing noised: so nothing follows from a plan's hash."""


def run(folder: Path, *, on_a_card: bool, **changes: dict[str, object]) -> RunSettings:
    folder.mkdir()
    (folder / "study.toml").write_text(study_text(**changes))
    write_hospitals(folder / "hospitals")
    for name in SITES:
        path = folder / "hospitals" / name / "site.toml"
        text = path.read_text().replace("[policy]", "[policy]\nallow_no_privacy = true")
        card = on_a_card and name == SITES[0]
        path.write_text(text.replace("[device]", "[device]\ngpu = 0") if card else text)
    settings = RunSettings(
        study=folder / "study.toml",
        hospitals=folder / "hospitals",
        run=folder / "run",
        baselines=False,
        threads=1,
        command="consilium-sim run study.toml",
    )
    run_study(settings)
    return settings


def weights(settings: RunSettings) -> npt.NDArray[np.float32]:
    found = safetensors.numpy.load_file(coordinator_folder(settings.run) / "final.safetensors")[
        "weights"
    ]
    return np.asarray(found)


@pytest.mark.long
def test_without_noise_a_hospital_on_a_card_changes_what_float32_rounds(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    here = weights(run(tmp_path / "here", on_a_card=False, **ALL))
    assert not accelerator.done
    there = weights(run(tmp_path / "there", on_a_card=True, **ALL))
    assert accelerator.done["repeat"]
    assert np.linalg.norm(there - here) <= 1e-4 * np.linalg.norm(here)


@pytest.mark.long
def test_a_private_simulation_on_a_card_is_repeated_bit_for_bit(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    first = run(tmp_path / "first", on_a_card=True)
    again = run(tmp_path / "again", on_a_card=True)
    assert np.array_equal(weights(first), weights(again))
    report = (first.run / "report.html").read_text()
    assert str(accelerator.card()) in report
    assert "cuda" in report
