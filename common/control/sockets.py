"""Control services on Unix sockets that belong to one account, and calls to them.

File permissions decide who may call: only its owner can read and write the socket, in a folder
that only its owner may enter.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.control.rpc_errors import RpcErrors
from common.errors import LinkError

LONGEST_PATH: Final = 107
"""Bytes of a Unix socket's path on Linux (``sockaddr_un``), less the one that ends it."""

LARGEST_MESSAGE: Final = 2**30 + 2**20
"""Bytes: a study with the largest file of starting weights. Only the socket's owner can send it."""


def new_server(*interceptors: grpc.aio.ServerInterceptor) -> grpc.aio.Server:
    """A gRPC server whose services, and interceptors, may raise ConsiliumErrors."""
    return grpc.aio.server(
        interceptors=[RpcErrors(), *interceptors],
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            # gRPC shares a port by default: a second daemon would silently get a part of the calls.
            ("grpc.so_reuseport", 0),
        ],
    )


async def add_health(server: grpc.aio.Server, service: str) -> Any:  # noqa: ANN401 - untyped
    """Answer ``grpc.health.v1`` for the server as a whole and for one service: serving.

    Returns:
        The servicer; ``await servicer.set(name, status)`` says otherwise,
        ``await servicer.enter_graceful_shutdown()`` says that it ends.
    """
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", service):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    return servicer


def listen(server: grpc.aio.Server, path: Path) -> None:
    """Let a server that is about to start listen on a Unix socket, its owner's alone.

    A socket that a killed daemon left is replaced; the caller makes sure that no other daemon
    serves there. Call it before other threads make files: the mask of new files' permissions
    is the process's.

    Raises:
        LinkError: the path is too long, or the folder cannot be written.
    """
    place = _require_short(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.is_socket():
            place.unlink()
        # From its first moment: between making the socket and chmod, anyone could connect.
        before = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{place}")
        finally:
            os.umask(before)
        place.chmod(0o600)
    except (OSError, RuntimeError) as error:
        raise LinkError(
            "the control socket cannot be created",
            where=place,
            found=error.strerror if isinstance(error, OSError) else None,
            remedy="give this user, and no other user, write permission in its folder",
        ) from error


def connect(path: Path, daemon: str, remedy: str) -> grpc.Channel:
    """A channel to the daemon that serves on a Unix socket.

    Args:
        path: of the socket.
        daemon: who serves there, as a noun: ``"the site's daemon"``.
        remedy: how it is started.

    Raises:
        LinkError: no daemon serves there, or this user may not ask it.
    """
    place = _require_short(path)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(place))
    except PermissionError as error:
        raise LinkError(
            f"this user is not allowed to use {daemon}",
            where=place,
            found=f"user {os.getuid()}",
            wanted=f"user {_owner(place)}",
            remedy="run the command as the user that runs the daemon, with sudo -u",
        ) from error
    except OSError as error:
        raise LinkError(f"{daemon} is not running", where=place, remedy=remedy) from error
    channel: grpc.Channel = grpc.insecure_channel(
        f"unix:{place}", options=[("grpc.max_receive_message_length", LARGEST_MESSAGE)]
    )
    return channel


def _owner(place: Path) -> object:
    for part in (place, place.parent, place.parent.parent):
        try:
            return part.stat().st_uid
        except PermissionError:
            continue
    return "unknown"


def _require_short(path: Path) -> Path:
    place = path.absolute()
    length = len(os.fsencode(place))
    if length > LONGEST_PATH:
        raise LinkError(
            "the path of the control socket is too long for a Unix socket",
            where=place,
            found=f"{length} bytes",
            wanted=f"at most {LONGEST_PATH}",
            remedy="use a state folder with a shorter path",
        )
    return place
