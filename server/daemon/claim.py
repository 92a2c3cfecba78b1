"""A home belongs to one daemon, and systemd is told how that one is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import CoordinatorError
from server.daemon.settings import Home


@contextmanager
def claimed(home: Home) -> Iterator[None]:
    """Hold a home: the kernel lets go of it when this process ends, however it does.

    Raises:
        CoordinatorError: another daemon holds it, or the state folder cannot be written.
    """
    path = home.state / "daemon.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as cause:
        raise CoordinatorError(
            "the coordinator's state folder cannot be used",
            where=home.state,
            found=cause.strerror,
            remedy="let this user, and nobody else, write there",
        ) from cause
    try:
        _lock(descriptor, home)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, home: Home) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        raise CoordinatorError(
            "another daemon serves this coordinator already",
            where=home.folder,
            found=f"process {holder or 'unknown'}",
            remedy="ask it (consilium-coordinator studies), or stop it before starting another",
        ) from cause
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def notify(state: str) -> None:
    """Tell systemd, if it started this process and wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end, contextlib.suppress(OSError):
        end.sendto(state.encode(), name)
