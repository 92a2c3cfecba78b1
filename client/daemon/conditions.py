"""How a process of the daemon is, in words that a person can act on."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from client.memory import EXIT_MEMORY

UNREACHED: Final = "the coordinator cannot be reached"


def now() -> str:
    """The time, as the daemon tells it: ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Condition:
    """How a process is, since when, and what a person could do about it."""

    state: str
    why: str = ""
    remedy: str = ""
    since: str = field(default_factory=now)


def death(status: int, limit: int | None) -> Condition:
    """What a worker's exit status says, and what to do about it.

    Args:
        status: negative for a signal.
        limit: of its memory, MiB.
    """
    if status == EXIT_MEMORY:
        return Condition(
            "restarting",
            f"the worker needed more memory than its limit of {limit} MiB",
            "raise [device] memory_limit_mib, or lower [device] memory_mib, and start again",
        )
    if status == -signal.SIGKILL:
        return Condition(
            "restarting",
            "the worker was killed",
            "see the system's log: where memory ran out, lower [device] memory_mib",
        )
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return Condition(
        "restarting", f"the worker ended by itself: {name}", "see the lines of the log above"
    )
