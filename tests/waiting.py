"""Waiting for what a test has set going, however busy the machine is.

A test waits for the thing itself and never for a time, and asserts no time that something
took: on a machine with other work everything takes several times as long, which is no property
of the code. What must come at once is tested against an alternative that would take for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

PATIENCE: Final = 240.0
"""Seconds after which what was waited for has not come: a guard, so that a test which fails says
what it waited for. Many times what a busy machine needs, and less than pytest's own limit."""


def until(condition: Callable[[], object], what: str = "what was waited for") -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


async def become(condition: Callable[[], object], what: str = "what was waited for") -> None:
    """The same in an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs still."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    except OSError:
        return False
    return state != "Z"
