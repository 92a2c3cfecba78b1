"""Freed memory stays: told by the page faults that a second allocation costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALLOCATE_TWICE = """
import resource, sys
import torch
from common.memory import keep_freed
if sys.argv[1] == "keep" and not keep_freed():
    sys.exit(3)
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", ALLOCATE_TWICE, how]
    found = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if found.returncode == 3:
        pytest.skip("this C library cannot be told to keep memory")
    return int(found.stdout)


def test_memory_that_was_freed_is_used_again_without_asking_the_operating_system() -> None:
    """64 MiB are 16384 pages of 4 KiB."""
    assert faults("keep") < 100
    assert faults("leave") > 1000
