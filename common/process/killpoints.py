"""Named points at which a test may kill the process.

A test starts a process with ``CONSILIUM_KILL_AT=point:detail``; when the process
reaches that point it dies by ``SIGKILL``, as in a power cut. Without the variable a
point does nothing. The points are ``charge.committed``, ``reservation.made``, ``training.step``,
``reply.stored``, ``update.folded``, ``checkpoint.begun``, ``file.half-written``,
``checkpoint.written`` and ``features.written``.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "CONSILIUM_KILL_AT"


def reach(point: str, detail: object) -> None:
    """Die here if this is the point named in the environment."""
    if os.environ.get(VARIABLE) == f"{point}:{detail}":
        os.kill(os.getpid(), signal.SIGKILL)
