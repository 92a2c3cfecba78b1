"""What a process may take."""

from __future__ import annotations

import subprocess
import sys

import pytest

from client.daemon.child import Backoff
from client.daemon.conditions import death
from client.process_limits import (
    EXIT_CARD,
    CardFailure,
    MemoryLimit,
    ProcessLimits,
    exhausted,
    require_memory,
)
from tests.waiting import PATIENCE


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return done.stdout.strip() or done.stderr


def test_the_limits_hold_in_the_process_that_applies_them() -> None:
    said = run(
        "import os; from client.process_limits import ProcessLimits, require_memory\n"
        "ProcessLimits(nice=7, memory_mib=300).apply()\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0))\n"
        "try: bytearray(400 * 2**20)\n"
        "except MemoryError as error:\n"
        "    try: require_memory(error)\n"
        "    except BaseException as limit: print(type(limit).__name__)"
    )
    assert said.split() == ["7", "MemoryLimit"]


def test_torch_without_memory_is_told_from_other_failures() -> None:
    said = run(
        "import torch; from client.process_limits import ProcessLimits, exhausted\n"
        "torch.set_num_threads(1)\n"
        "ProcessLimits(memory_mib=1000).apply()\n"
        "try: torch.zeros(2**30)\n"
        "except Exception as error: print(exhausted(error))\n"
        "try: torch.zeros(2) @ torch.zeros(3)\n"
        "except Exception as error: print(exhausted(error))"
    )
    assert said.split() == ["True", "False"]


def test_what_a_driver_mapped_does_not_count_against_the_limit() -> None:
    said = run(
        "from client.process_limits import ProcessLimits, private_memory\n"
        "before = private_memory()\n"
        "mapped = bytearray(300 * 2**20)\n"
        "beside = private_memory() - before\n"
        "print(300 <= beside / 2**20 < 310)\n"
        "ProcessLimits(memory_mib=300).apply(beside)\n"
        "bytearray(200 * 2**20)\n"
        "try: bytearray(310 * 2**20)\n"
        "except MemoryError: print('full')"
    )
    assert said.split() == ["True", "full"]


def test_a_worker_whose_card_is_lost_ends_with_a_code_of_its_own() -> None:
    program = """
import os, socket, sys
from pathlib import Path
from client.daemon import worker
from client.process_limits import CardFailure, ProcessLimits
ours, theirs = socket.socketpair()
settings = worker.WorkerSettings(Path(), Path(), None, ProcessLimits(), os.getppid(), "json")
sys.argv = ["worker", str(theirs.detach()), settings.text]
def lost(*_):
    raise CardFailure from RuntimeError("CUDA error: of patient P07")
worker.serve = lost
worker.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_CARD, done.stderr
    assert "card.failed" in done.stdout + done.stderr
    assert "P07" not in done.stdout + done.stderr
    told = death(EXIT_CARD, None)
    assert "graphics card (GPU) failed" in told.why
    assert "Xid" in told.remedy


def test_without_a_limit_nothing_is_made_of_it() -> None:
    require_memory(MemoryError())


def test_what_ends_the_worker_passes_every_handler_of_errors() -> None:
    assert not issubclass(MemoryLimit, Exception)
    assert not issubclass(CardFailure, Exception)
    assert not exhausted(ValueError("out of memory"))


@pytest.mark.parametrize(("gpu", "seen"), [(None, ""), (0, "0"), (3, "3"), ("MIG-1a", "MIG-1a")])
def test_a_worker_sees_the_card_that_it_was_given_and_no_other(
    gpu: int | str | None, seen: str
) -> None:
    """Counted as nvidia-smi counts."""
    assert ProcessLimits(gpu=gpu).environment == {
        "CUDA_VISIBLE_DEVICES": seen,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_waits_grow_to_a_bound_and_differ() -> None:
    backoff = Backoff(first=1, most=60)
    bounds = [1, 2, 4, 8, 16, 32, 60, 60]
    waits = [backoff.next() for _ in bounds]
    assert all(0 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) == len(waits)
    backoff.reset()
    assert backoff.next() <= 1
