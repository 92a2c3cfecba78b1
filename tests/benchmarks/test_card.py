"""The results of a card are one file and one page, which say which card and commit they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.card.__main__ import commit, main
from benchmarks.card.page import page
from benchmarks.card.probing import CASES, Case, probed, study_of
from common.models.networks import weights_count

FOUND: dict[str, Any] = {
    "card": {
        "name": "A Card",
        "multiprocessors": 4,
        "mig": "none",
        "driver": "580.1",
        "cuda": "13.0",
        "cudnn": "91900",
    },
    "torch": "2.13.0+cu130",
    "commit": "abc123",
    "date": "2026-11-27",
    "tests": {"passed": 3, "failed": ["tests.one.test_two"], "skipped": 1},
    "probe": [
        {
            "case": {"model": "cnn", "side": 64, "precision": "float32"},
            "tile": 64,
            "replaced": {"conv1": "ghost"},
            "refused": "",
        }
    ],
    "bench": [{"name": "step", "ours": 2.0, "peer": 1.0, "ratio": 2.0, "unit": "ms"}],
}


def test_the_page_says_which_card_driver_and_commit_it_is_about() -> None:
    lines = page(FOUND).splitlines()
    assert "- card: A Card, 4 multiprocessors, MIG none" in lines
    assert "- driver 580.1, CUDA 13.0, cuDNN 91900, torch 2.13.0+cu130" in lines
    assert "- commit abc123, 2026-11-27" in lines
    assert "- tests: 3 passed, 1 failed, 1 skipped" in lines
    assert "  - failed: `tests.one.test_two`" in lines
    assert "| cnn, 64x64, float32 | 64 | conv1: ghost | no |" in lines
    assert "| step | 2.0 | 1.0 | 2.0 | ms |" in lines


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card is at hand")
def test_without_a_card_it_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "results" / "cuda.json", tmp_path / "cuda.md"
    assert main(["--out", str(out), "--page", str(text)]) == 2
    assert "graphics card" in capsys.readouterr().err
    assert not out.exists()
    assert not text.exists()


def test_the_commit_is_the_repositorys() -> None:
    assert len(commit().split()[0]) == 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_of_the_probe_is_a_study(case: Case) -> None:
    assert weights_count(study_of(case)) > 0


def test_a_probe_tells_how_many_patients_are_worked_on_at_once() -> None:
    found = probed(Case("cnn", 16, "float32"), "cpu")
    assert found["tile"] == 64
    assert found["refused"] == ""
