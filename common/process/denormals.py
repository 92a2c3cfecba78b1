"""Numbers that are too small to be normal count as zero, on every thread that computes.

A processor may take a hundred times as long for such a number. Weights from an attacker could
make one patient's numbers that small, and the time would show it. Each thread has the setting
for itself, and takes it from the thread that started it. So it is set before torch starts
threads (:func:`set_threads`), which keep it, and on the calling thread while a model is computed
(:func:`flushed`), but no longer: accountants need such numbers to be right.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from common.errors import SiteError

EACH: Final = 2**16
"""Numbers for each thread, so many that torch gives some to all of them."""
FEW: Final = 64
"""Where the calling thread is the only one."""
SMALLEST: Final = ((torch.int32, torch.float32), (torch.int64, torch.float64))
"""The integer 1, read as a number, is the smallest above zero."""


@contextmanager
def flushed() -> Iterator[None]:
    """Count them as zero on this thread while the body lasts; also a decorator."""
    # torch sets the flag and cannot read it; half of the smallest normal number shows it.
    before = sys.float_info.min / 2.0 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def set_threads(count: int) -> None:
    """Have torch's operations on this thread use so many threads, each with the setting."""
    with flushed():
        torch.set_num_threads(count)
        if count > 1:
            are_zero()  # starts those that are missing


def are_zero() -> bool:
    """Whether every thread of an operation counts them as zero now, in float32 and float64."""
    threads = torch.get_num_threads()
    many = EACH * threads if threads > 1 else FEW
    for whole, real in SMALLEST:
        # Made as an integer: as a float it would be flushed to zero before it is tried.
        tiny = torch.ones(many, dtype=whole).view(real)
        if (tiny * 1.0).view(whole).any():
            return False
    return True


def require_flushed() -> None:
    """Refuse to compute where they would not count as zero.

    Raises:
        SiteError: the processor cannot, or threads were started before it was asked to.
    """
    with flushed():
        if not are_zero():
            raise SiteError(
                "this process cannot treat very small numbers as zero",
                where="the processor, or a torch thread that started too early",
                found="an operation returned a denormal number",
                wanted="zero, on every thread: else the time of a round could reveal a patient",
                remedy="start the process again; if that does not help, use another machine",
            )


set_threads(torch.get_num_threads())  # before anything else has it start threads
