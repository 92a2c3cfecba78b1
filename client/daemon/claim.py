"""A state folder belongs to one daemon, and systemd is told how that one is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import SiteError


@contextmanager
def claimed(state: Path) -> Iterator[None]:
    """Hold a state folder: the kernel lets go of it when this process ends, however it does.

    Raises:
        SiteError: another daemon holds it, or the folder cannot be written.
    """
    path = state / "daemon.lock"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SiteError(
            "the site's state folder cannot be used",
            where=state,
            found=error.strerror,
            remedy="let this user, and nobody else, write there",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SiteError(
                "another daemon serves this site already",
                where=state,
                found=f"process {os.pread(descriptor, 20, 0).decode().strip() or 'unknown'}",
                remedy="ask it (consilium-site status), or stop it before starting another",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def notify(state: str) -> None:
    """Tell systemd, if it started this process and wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
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
    return int(microseconds) / 2e6
