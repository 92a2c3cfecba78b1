"""Ports on loopback for what this machine starts for itself."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
FIRST: Final = 20_000
END: Final = 32_768
"""From here on the system gives out ports by itself, to outgoing connections too: a port that was
free a moment ago may be taken on a busy machine."""


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives out by itself."""
    while True:
        # At random: processes that count up from one number would meet at each port.
        port = FIRST + secrets.randbelow(END - FIRST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
