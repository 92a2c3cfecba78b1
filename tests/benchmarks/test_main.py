from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A folder with the runner, a benchmark that works and one that does not."""
    copy = tmp_path / "benchmarks"
    copy.mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(root / "benchmarks" / name, copy / name)
    (copy / "works.py").write_text("""print('{"ratio": 2.0}')\n""")
    (copy / "breaks.py").write_text("raise SystemExit(3)\n")
    return tmp_path


def run(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *names]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_named_benchmark_passes_its_line_through(folder: Path) -> None:
    result = run(folder, "works")

    assert result.returncode == 0
    assert json.loads(result.stdout) == {"ratio": 2.0}


def test_without_a_name_all_run_and_one_failure_fails_the_whole_at_the_end(folder: Path) -> None:
    result = run(folder)

    assert result.returncode == 1
    assert json.loads(result.stdout) == {"ratio": 2.0}
    assert "failed: breaks" in result.stderr


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(folder: Path) -> None:
    result = run(folder, "nothing")

    assert result.returncode == 2
    assert "wanted: breaks, works" in result.stderr
