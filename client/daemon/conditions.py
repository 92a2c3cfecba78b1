"""The state of a process of the daemon, in words that a person can act on."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from client.process_limits import EXIT_CARD, EXIT_MEMORY

UNREACHED: Final = "the coordinator cannot be reached"


def now() -> str:
    """The time as status shows it: ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Condition:
    """The state of a process, since when, why, and what a person can do about it."""

    state: str
    why: str = ""
    remedy: str = ""
    since: str = field(default_factory=now)


def death(status: int, limit: int | None) -> Condition:
    """What the exit status of a worker means, and what to do about it.

    Args:
        status: negative for a signal.
        limit: of its memory, MiB.
    """
    if status == EXIT_MEMORY:
        return Condition(
            "restarting",
            f"the worker needed more memory than its limit of {limit} MiB",
            "raise [device] memory_limit_mib, or lower [device] memory_mib, and restart the daemon",
        )
    if status == EXIT_CARD:
        return Condition(
            "restarting",
            "the graphics card (GPU) failed, and the worker could not compute on it any more",
            "nothing, if it happens once: a new worker is started, and a round is computed "
            "again without a second charge. If it happens again, see what nvidia-smi -q and the "
            "system log (dmesg, lines with Xid) say of the card, and restart the machine; with a "
            "task of your own, see docs/new-task.md",
        )
    if status == -signal.SIGKILL:
        return Condition(
            "restarting",
            "the worker was killed",
            "look in the system log; if memory ran out, lower [device] memory_mib",
        )
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return Condition(
        "restarting",
        f"the worker ended by itself: {name}",
        "read the log lines before it",
    )
