"""The results of a card are one file and one page, which say which card and commit they are of."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.card.__main__ import commit, main, suite
from benchmarks.card.page import page
from benchmarks.card.probing import CASES, Case, probed, study_of
from common.devices.cpu import Cpu
from common.devices.device import Card
from common.devices.devices import DEVICES
from common.errors import SiteError
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


REPORT = "<testsuites><testsuite>{}</testsuite></testsuites>"
PASSED, SKIPPED = "<testcase name='a'/>", "<testcase name='c'><skipped/></testcase>"
BROKE = "<testcase name='d' classname='tests.x'><error/></testcase>"
Leave = Callable[[str | None], None]


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Leave:
    """What pytest leaves as its report; None for nothing."""

    def given(text: str | None) -> None:
        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            path = Path(command[-1].removeprefix("--junitxml="))
            assert not path.exists()
            if text is not None:
                path.write_text(text)
            return subprocess.CompletedProcess(command, 5)

        monkeypatch.setattr(subprocess, "run", run)

    return given


def test_of_tests_it_is_told_how_many_passed_and_which_failed(tmp_path: Path, leave: Leave) -> None:
    leave(REPORT.format(PASSED + PASSED + BROKE + SKIPPED))
    assert suite(tmp_path) == {"passed": 2, "failed": ["tests.x.d"], "skipped": 1}
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("cases", ["", SKIPPED, 3 * SKIPPED])
def test_a_run_in_which_no_test_ran_is_an_error_in_words(
    tmp_path: Path, leave: Leave, cases: str
) -> None:
    leave(REPORT.format(cases))
    with pytest.raises(SiteError, match="no test ran on the graphics card") as caught:
        suite(tmp_path)
    assert "exit code 5" in caught.value.details["found"]


@pytest.mark.parametrize("text", [None, "", "<testsuites>", REPORT.format(PASSED)[:-5]])
def test_a_report_that_cannot_be_read_is_an_error_in_words(
    tmp_path: Path, leave: Leave, text: str | None
) -> None:
    """Also where that of a run before lies there, which says nothing of this one."""
    (tmp_path / "cuda-tests.xml").write_text(REPORT.format(PASSED))
    leave(text)
    with pytest.raises(SiteError, match="left no report that can be read"):
        suite(tmp_path)
    assert [*tmp_path.iterdir()] == []


class Stand(Cpu):
    """The processor, for a card."""

    def card(self) -> Card:  # type: ignore[override] # the processor has none
        return Card(**FOUND["card"])

    def repeat(self, threads: int) -> None:
        """Nothing: this process has other tests."""


def test_where_no_test_ran_nothing_is_written_and_the_exit_code_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    leave: Leave,
) -> None:
    monkeypatch.setitem(DEVICES, "cuda", Stand())
    leave(REPORT.format(SKIPPED))
    assert main(["--out", str(tmp_path / "cuda.json"), "--page", str(tmp_path / "cuda.md")]) == 2
    assert capsys.readouterr().err.startswith("error: no test ran")
    assert [*tmp_path.iterdir()] == []


def test_the_commit_is_the_repositorys() -> None:
    assert len(commit().split()[0]) == 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_of_the_probe_is_a_study(case: Case) -> None:
    assert weights_count(study_of(case)) > 0


def test_a_probe_tells_how_many_patients_are_worked_on_at_once() -> None:
    found = probed(Case("cnn", 16, "float32"), "cpu")
    assert found["tile"] == 64
    assert found["refused"] == ""
