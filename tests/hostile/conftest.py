"""What the tests of hostile messages share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.standing import Standing, stand

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def quick() -> Iterator[Path]:
    """A folder in memory if the machine has one: hundreds of sites need not wait for a disk."""
    where = MEMORY if MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="consilium-hostile-", dir=where))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def standing(quick: Path) -> Standing:
    return stand(quick)


@pytest.fixture
def place(quick: Path) -> Iterator[Path]:
    """A folder for a test's own site."""
    folder = Path(tempfile.mkdtemp(dir=quick))
    yield folder / "site"
    shutil.rmtree(folder)
