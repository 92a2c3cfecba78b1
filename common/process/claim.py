"""A folder belongs to one daemon, and systemd is told how that daemon is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import ConsiliumError, of_system

LOCK: Final = "daemon.lock"


@dataclass(frozen=True)
class Owner:
    """Whose daemon claims a folder, for what is said when it cannot.

    Attributes:
        who: ``site`` or ``coordinator``.
        error: what is raised.
        ask: the command that asks a running daemon.
    """

    who: str
    error: type[ConsiliumError]
    ask: str


@contextlib.contextmanager
def claimed(folder: Path, owner: Owner) -> Iterator[None]:
    """Hold a state folder: the kernel lets go of it when this process ends, however it does.

    Raises:
        ConsiliumError: the owner's: another daemon holds it, or it cannot be written.
    """
    what = f"the {owner.who}'s state folder cannot be used"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Closed in children: one that outlives the daemon would keep the claim.
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise of_system(cause, owner.error, what, where=folder) from cause
    try:
        try:
            _lock(descriptor, folder, owner)
        except OSError as cause:  # a full disk
            raise of_system(cause, owner.error, what, where=folder) from cause
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, owner: Owner) -> None:
    try:
        # A file with a process number in it would still be there after a power cut; a lock is not.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        raise owner.error(
            f"another daemon is already running for this {owner.who}",
            where=folder,
            found=f"process {holder or 'unknown'}",
            remedy=f"use the running daemon ({owner.ask}), or stop it before you start another",
        ) from cause
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def notify(state: str) -> None:
    """Tell systemd, if it started this process and wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # systemd writes "@" for the zero byte of an abstract socket.
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end, contextlib.suppress(OSError):
        end.sendto(state.encode(), name)


def watchdog_seconds() -> float | None:
    """How often to tell systemd that this process is well; None where it does not ask."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    # Half of the time, as sd_watchdog_enabled(3) advises.
    return int(microseconds) / 2e6
