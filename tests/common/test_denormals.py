"""Numbers too small to be normal count as zero, on each thread that computes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from common import denormals
from common.denormals import are_flushed, flush, require_flushed
from common.errors import SiteError
from common.numerics import EngineChoice, apply, record


@pytest.fixture(autouse=True)
def _restored() -> object:
    yield
    flush()


def test_they_are_zero_in_both_types_and_normal_numbers_stay() -> None:
    require_flushed()
    for tiny, normal, kind in ((1e-40, 1.2e-38, torch.float32), (1e-310, 2.3e-308, torch.float64)):
        bits = torch.int32 if kind == torch.float32 else torch.int64
        torch.set_flush_denormal(False)
        small, large = torch.full((8,), tiny, dtype=kind), torch.full((8,), normal, dtype=kind)
        assert (small.view(bits) != 0).all()
        flush()
        assert (small * 1.0).view(bits).eq(0).all()
        assert torch.equal((large * 1.0).view(bits), large.view(bits))


def test_a_thread_that_was_told_nothing_is_found_out() -> None:
    torch.set_flush_denormal(False)
    assert not are_flushed()


def test_applying_a_record_makes_them_zero_on_whichever_thread_applies_it() -> None:
    """As a thread of Flower or gRPC, which was started before."""

    def before() -> bool:
        torch.set_flush_denormal(False)
        return are_flushed()

    def after() -> bool:
        apply(record(1, EngineChoice()))
        return are_flushed()

    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(before).result()
        assert pool.submit(after).result()


def test_a_process_in_which_it_cannot_be_had_computes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denormals, "are_flushed", lambda: False)
    with pytest.raises(SiteError, match="near zero"):
        apply(record(1, EngineChoice()))


PARALLEL = """
import threading, torch
torch.set_num_threads(4)
{first}
from common.denormals import are_flushed, require_flushed
from common.errors import SiteError

def found():
    try:
        require_flushed()
    except SiteError:
        return "refused"
    assert are_flushed()
    return "zero"

print(found())
new = []
thread = threading.Thread(target=lambda: new.append(found()))
thread.start()
thread.join()
print(*new)
"""


@pytest.mark.parametrize(
    ("first", "here"),
    [
        ("", "zero"),
        ("import common.model; torch.ones(2**22) * 2.0", "zero"),
        ("import client.engine.clipped; torch.ones(2**22) * 2.0", "zero"),
        ("torch.ones(2**22) * 2.0  # its threads were started before", "refused"),
    ],
)
def test_every_thread_of_an_operation_has_it_or_it_is_refused(
    root: Path, first: str, here: str
) -> None:
    """In a process of its own, four threads wide; a new thread's operations begin new threads."""
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL.format(first=first)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )
    assert done.stdout.split() == [here, "zero"]
