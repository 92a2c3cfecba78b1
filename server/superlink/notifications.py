"""Notifications between the gateway and the studies' processes, so that neither polls in vain.

Flower is polled from both ends. Here a study's process tells the gateway for which nodes it has
pushed requests, and the gateway answers the polls of these nodes that it holds; the gateway
tells every study's process when the last part of a reply has arrived. Lines of JSON over a Unix
stream socket that only its owner may use. A notification may be lost when either side
restarts. Then both sides look for themselves once, and they look every few seconds anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from common.documents import read_json
from common.errors import CoordinatorError

RECONNECT_SECONDS: Final = 0.2
# Linux gives a Unix socket's path 108 bytes, the last of them a zero (unix(7)).
LONGEST_PATH: Final = 107
LONGEST_LINE: Final = 2**20
log = structlog.get_logger()


class NotificationBoard:
    """The gateway's end: receives word of requests, tells of replies.

    Args:
        path: of the socket; what is there is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._listeners: set[asyncio.StreamWriter] = set()
        self._on_pushed: Callable[[list[int]], None] = lambda nodes: None

    def subscribe(self, on_pushed: Callable[[list[int]], None]) -> None:
        """Call ``on_pushed`` with the nodes that requests were pushed for."""
        self._on_pushed = on_pushed

    async def start(self) -> None:
        """Listen.

        Raises:
            CoordinatorError: the socket cannot be made.
        """
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        # The mode at birth: between bind and chmod another account could connect.
        before = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        except OSError as cause:
            listener.close()
            raise CoordinatorError(
                "the notification socket cannot be created",
                where=self._path,
                found=cause.strerror or cause,  # a path that is too long has no strerror
                wanted=f"a path of at most {LONGEST_PATH} bytes in a writable folder",
                remedy="move the coordinator's home to a shorter path",
            ) from cause
        finally:
            os.umask(before)
        self._server = await asyncio.start_unix_server(
            self._hear, sock=listener, limit=LONGEST_LINE
        )

    async def stop(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._listeners):
                writer.close()
            await self._server.wait_closed()
            self._path.unlink(missing_ok=True)

    def complete(self, message_id: str) -> None:
        """Tell that the reply to a request has arrived whole."""
        line = _line({"complete": message_id})
        for writer in self._listeners:
            writer.write(line)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listeners.add(writer)
        try:
            while line := await reader.readline():
                self._on_pushed([int(node) for node in read_json(line)["pushed"]])
        except (ValueError, TypeError, KeyError, OSError, asyncio.CancelledError) as error:
            log.warning("notifications.lost", error=type(error).__name__)
        finally:
            self._listeners.discard(writer)
            writer.close()


class NotificationLine:
    """A study's end: tells of requests, receives word of replies, in a thread of its own.

    Args:
        path: of the gateway's socket, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._expected: dict[str, int] = {}
        self._complete: set[str] = set()
        self._doubted: set[str] = set()
        self._fresh = False
        self._socket: socket.socket | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="notifications", daemon=True)
        self._thread.start()

    def expect(self, requests: dict[str, int]) -> None:
        """Listen for the replies to requests that are about to be pushed.

        Args:
            requests: the node of each, by message.
        """
        with self._changed:
            self._expected.update(requests)

    def take(self, message_id: str) -> None:
        """Say that the reply is being looked for now, so that only later notifications count."""
        with self._changed:
            self._complete.discard(message_id)
            self._doubted.discard(message_id)

    def forget(self, message_id: str) -> None:
        """Expect a reply no longer."""
        with self._changed:
            self._expected.pop(message_id, None)
            self._complete.discard(message_id)
            self._doubted.discard(message_id)

    def pushed(self, nodes: Iterable[int]) -> None:
        """Tell that requests for these nodes, and all that belongs to them, were pushed."""
        with self._changed:
            listener = self._socket
        self._tell(listener, sorted(set(nodes)))  # told again after a reconnect

    def complete(self, message_id: str) -> bool:
        """Whether a notification said that the reply to a request is complete."""
        with self._changed:
            return message_id in self._complete

    def doubted(self, message_id: str) -> bool:
        """Whether a notification may have been lost: the connection was down."""
        with self._changed:
            return message_id in self._doubted

    def wait(self, timeout: float) -> bool:
        """Block until there is more than at the last call; tells whether there is."""
        with self._changed:
            heard = self._changed.wait_for(lambda: self._fresh or self._closed, timeout)
            self._fresh = False
            return heard

    def close(self) -> None:
        """Disconnect."""
        with self._changed:
            self._closed = True
            listener = self._socket
            self._changed.notify_all()
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=2)

    def _listen(self) -> None:
        while not self._closed:
            with socket.socket(socket.AF_UNIX) as listener, contextlib.suppress(OSError):
                listener.connect(str(self._path))
                self._begin(listener)
                with listener.makefile("rb") as lines:
                    for line in lines:
                        self._heard(str(read_json(line)["complete"]))
            with self._changed:
                self._socket = None
            if not self._closed:
                time.sleep(RECONNECT_SECONDS)

    def _begin(self, listener: socket.socket) -> None:
        """Doubt every expected reply, and tell of every request again: both sides missed some."""
        with self._changed:
            self._socket = listener
            self._doubted.update(self._expected)
            self._fresh = True
            nodes = sorted(set(self._expected.values()))
            self._changed.notify_all()
        if nodes:
            self._tell(listener, nodes)

    def _heard(self, message_id: str) -> None:
        with self._changed:
            # The gateway tells every study of every reply: only our own count.
            if message_id in self._expected:
                self._complete.add(message_id)
                self._fresh = True
                self._changed.notify_all()

    @staticmethod
    def _tell(listener: socket.socket | None, nodes: list[int]) -> None:
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.sendall(_line({"pushed": nodes}))


def _line(content: dict[str, object]) -> bytes:
    return json.dumps(content).encode() + b"\n"
