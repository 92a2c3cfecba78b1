"""The site's whole path on a device that is not the processor, each file in a process of its own.

``tests/on_accelerator/accelerator.py`` says what the device is, and why it needs that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "on_accelerator"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))


@pytest.mark.parametrize("name", FILES)
def test_what_a_site_computes_can_be_computed_beside_the_processor(
    root: Path, name: str, request: pytest.FixtureRequest
) -> None:
    """Of the tests there, those that are asked for: without ``long`` ones, or all."""
    kinds = request.config.option.markexpr
    asked = [*["-m", kinds][: 2 * bool(kinds)], str(FOLDER / name)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *asked],
        cwd=root,
        env=os.environ | {"CONSILIUM_TEST_ACCELERATOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    none = kinds and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert none or done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
