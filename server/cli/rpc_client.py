"""Calls from a command to the daemon: over its socket, or the network with a certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from common.control.coordinator_pb2_grpc import CoordinatorStub
from common.control.rpc_errors import asking
from common.control.sockets import LARGEST_MESSAGE, connect
from common.errors import CoordinatorError, of_system
from common.files import require_private
from server.daemon.settings import load_home

DAEMON: Final = "the coordinator's daemon"
REMEDY: Final = (
    "start it and keep it running: consilium-coordinator serve, in another terminal or as a service"
)
REMOTE_REMEDY: Final = (
    "on that machine, check that consilium-coordinator serve runs, and that [control] listen in "
    "coordinator.toml has this port (it is not the port for sites); here, check that --identity "
    "is the folder made by that coordinator"
)


@dataclass(frozen=True)
class Caller:
    """The daemon that a command calls.

    Attributes:
        home: of a coordinator on this machine.
        connect: ``host:port`` of one on another machine; None for the one at ``home``.
        identity: folder with an operator's ``NAME.pem``, ``NAME.key`` and ``ca.pem``.
    """

    home: Path
    connect: str | None = None
    identity: Path | None = None


@contextmanager
def calling(caller: Caller) -> Iterator[CoordinatorStub]:
    """Calls made inside raise what the daemon raised.

    Raises:
        ConsiliumError: the daemon does not answer, or refuses us.
    """
    if caller.connect is None:
        channel, daemon, remedy = _local(caller.home), DAEMON, REMEDY
    else:
        channel = _remote(caller.connect, caller.identity)
        daemon, remedy = f"the coordinator at {caller.connect}", REMOTE_REMEDY
    with channel, asking(daemon, remedy):
        yield CoordinatorStub(channel)


def _local(home: Path) -> grpc.Channel:
    return connect(load_home(home).control_socket, DAEMON, REMEDY)


def _remote(address: str, identity: Path | None) -> grpc.Channel:
    folder = identity or Path()
    names = [path.stem for path in sorted(folder.glob("*.key"))]
    if len(names) != 1:
        raise CoordinatorError(
            "no operator's certificate was found",
            where=folder.absolute(),
            found=", ".join(names) or "no key",
            wanted="one NAME.key, with NAME.pem and ca.pem",
            remedy="pass --identity FOLDER: the folder made by consilium-coordinator operator NAME",
        )
    try:
        parts = [folder / "ca.pem", folder / f"{names[0]}.key", folder / f"{names[0]}.pem"]
        ca, key, chain = (path.read_bytes() for path in parts)
    except OSError as cause:
        what = "an operator's certificate cannot be read"
        raise of_system(cause, CoordinatorError, what) from cause
    require_private((parts[1],), CoordinatorError, "operator")
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    # gRPC's own limit is 4 MiB.
    options = [("grpc.max_receive_message_length", LARGEST_MESSAGE)]
    channel: grpc.Channel = grpc.secure_channel(address, credentials, options)
    return channel
