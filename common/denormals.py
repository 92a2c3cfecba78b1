"""Numbers that are too small to be normal count as zero, on every thread that computes.

A processor may take a hundred times as long for such a number, so that weights which make a
patient's numbers that small would show in the time. The setting is a thread's own, and a thread
has it from the one that started it: so it is made when this module is loaded, which whatever
computes loads first, and made and tried again by every thread that begins to compute
(:func:`require_flushed`).
"""

from __future__ import annotations

from typing import Final

import torch

from common.errors import SiteError

EACH: Final = 2**16
"""Numbers for each thread, so many that torch gives some to all of them."""
SMALLEST: Final = ((torch.int32, torch.float32), (torch.int64, torch.float64))
"""The integer 1, read as a number, is the smallest above zero."""


def flush() -> bool:
    """Count such numbers as zero on this thread, and on those that it starts from now on.

    Returns:
        Whether the processor can.
    """
    return bool(torch.set_flush_denormal(True))


def are_flushed() -> bool:
    """Whether every thread of an operation counts them as zero, in float32 and float64."""
    many = EACH * torch.get_num_threads()
    for whole, real in SMALLEST:
        tiny = torch.ones(many, dtype=whole).view(real)
        if (tiny * 1.0).view(whole).any():
            return False
    return True


def require_flushed() -> None:
    """Have them count as zero on this thread and on all that share its operations.

    Raises:
        SiteError: the processor cannot, or threads were started before it was asked to.
    """
    if not flush() or not are_flushed():
        raise SiteError(
            "numbers near zero cannot be made to count as zero here",
            where="the processor, or a thread of torch that began before",
            found="a number that is not normal comes out of an operation",
            wanted="zero, on every thread: else how long a round takes could tell of a patient",
            remedy="start the process anew; if that does not help, use another machine",
        )


flush()
