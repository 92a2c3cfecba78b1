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
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            holder = stack.enter_context(locked(folder / LOCK))
        except OSError as cause:  # a full disk, too
            raise of_system(cause, owner.error, what, where=folder) from cause
        if holder is not None:
            raise owner.error(
                f"another daemon is already running for this {owner.who}",
                where=folder,
                found=f"process {holder}",
                remedy=f"use the running daemon ({owner.ask}), or stop it before you start another",
            )
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str | None]:
    """Hold a lock that ends with this process, however it ends.

    Args:
        path: of the file; made where there is none.

    Yields:
        None; or the number of the process that holds it already.

    Raises:
        OSError: the file cannot be written.
    """
    # Closed in children: one that outlives this process would keep the lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            # A file with a process number in it would still be there after a power cut.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield os.pread(descriptor, 20, 0).decode().strip() or "unknown"
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield None
    finally:
        os.close(descriptor)


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
