"""None of a daemon's processes outlives the daemon."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends, however it ends (prctl(2)).

    Args:
        parent: the number of its process, given by itself: it may have ended before this call.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent ended before the call above: the kernel sends no signal for what is over.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
