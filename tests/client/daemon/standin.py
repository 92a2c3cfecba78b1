"""A coordinator of bytes on loopback, and the connection process that talks to it.

In place of Flower's fleet protocol stand frames over TCP: what the daemon does around the
line is tested without a SuperLink. As a module it is the program of the connection.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.daemon import frames
from client.daemon.connection import ConnectionState
from client.daemon.frames import BrokenFrame, Frame
from client.daemon.line_errors import ForeignCode, NotAdmitted, Offline, Skewed, Unreadable
from common.errors import LinkError
from common.process.parent import die_with_parent
from common.wire import flower
from common.wire.flower import Message
from common.wire.messages import Reply, Request, reply_from_record, request_to_record
from tests.waiting import PATIENCE

PLACE = "standin.json"
HELD = 2.5
"""Seconds that a pull is held where there is nothing."""
LINGER = struct.pack("ii", 1, 0)
ERRORS: dict[str, Callable[[], LinkError]] = {
    "skewed": lambda: Skewed(300.0),
    "suspended": lambda: NotAdmitted("suspended"),
    "foreign": lambda: ForeignCode("a run brings code", found="evil.py"),
    "unreadable": lambda: Unreadable("ab" * 32, 3),
}


class TcpLine:
    """A line whose protocol is one frame there and one frame back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.twins = ""

    def connect(self) -> None:
        self._ask(Frame("connect"))

    def pull(self) -> Message | None:
        answer = self._ask(Frame("pull"))
        self.twins = answer.fields.get("twins", "")
        return flower.message_from_bytes(answer.payload) if answer.kind == "message" else None

    def push(self, reply: Message) -> bool:
        return self._ask(Frame("push", {}, flower.message_bytes(reply))).kind == "taken"

    def close(self) -> None:
        with suppress(Offline):
            self._ask(Frame("goodbye"))

    def _ask(self, frame: Frame) -> Frame:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                frames.send(end, frame)
                answer = frames.receive(end)
        except (OSError, BrokenFrame) as error:
            raise Offline("the coordinator cannot be reached", remedy="wait") from error
        if answer is None:
            raise Offline("the line broke", remedy="wait")
        if answer.kind in ERRORS:
            raise ERRORS[answer.kind]()
        return answer


@dataclass
class Coordinator:
    """What the stand-in was asked, and what it is to answer.

    Attributes:
        port: where it listens.
        pushed: replies, in the order in which they came whole.
        asked: kinds of frames that came.
        refuse: a key of ``ERRORS``, with which every call but a goodbye is answered.
        twins: since when it says that another machine is connected as this site.
        unwanted: whether it no longer waits for the replies that come.
        rate: bytes a second that it reads; 0 for all that there is.
        received: bytes that were read so.
    """

    port: int
    pushed: list[Message] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuse: str = ""
    unwanted: bool = False
    twins: str = ""
    rate: int = 0
    received: int = 0
    slow: socket.socket | None = None
    down: bool = False
    waiting: queue.Queue[bytes] = field(default_factory=queue.Queue)
    ids: int = 0

    def ask(self, request: Request) -> str:
        """Send a request; gives the message's id."""
        flower.identify(1, 0)
        content = request_to_record(request)
        kinds = {"offer": "query.offer", "propose": "query.propose", "close": "query.close"}
        kind = kinds.get(request.purpose, request.purpose)
        return self.send(Message(content, dst_node_id=5, message_type=kind))

    def send(self, message: Message) -> str:
        self.ids += 1
        message.metadata.__dict__["_message_id"] = f"m{self.ids}"
        self.waiting.put(flower.message_bytes(message))
        return f"m{self.ids}"

    def replies(self) -> list[Reply]:
        return [reply_from_record(each.content) for each in self.pushed]

    def arrived(self) -> int:
        """Bytes that have reached this machine of what is read slowly, read or not."""
        assert self.slow is not None
        try:
            (unread,) = struct.unpack("i", fcntl.ioctl(self.slow, termios.FIONREAD, b"0123"))
        except (OSError, ValueError):  # it is closed
            unread = 0
        return self.received + int(unread)

    def serve(self, server: socket.socket) -> None:
        while True:
            try:
                end, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(end,), daemon=True).start()

    def _answer(self, end: socket.socket) -> None:
        with end:
            if self.down:
                return
            try:
                frame = frames.receive(_Slow(end, self) if self.rate else end)  # type: ignore[arg-type]
                if frame is not None:
                    self.asked.append(frame.kind)
                    frames.send(end, self._reply(frame, end))
            except (OSError, BrokenFrame):
                return

    def _reply(self, frame: Frame, end: socket.socket) -> Frame:
        if (
            self.refuse
            and frame.kind != "goodbye"
            and not (self.refuse in ("foreign", "unreadable") and frame.kind == "connect")
        ):
            return Frame(self.refuse)
        if frame.kind == "push":
            self.pushed.append(flower.message_from_bytes(frame.payload))
            return Frame("refused" if self.unwanted else "taken")
        if frame.kind != "pull":
            return Frame("well")
        deadline = time.monotonic() + HELD
        while time.monotonic() < deadline and not self.down and not _gone(end):
            try:
                return Frame("message", {"twins": self.twins}, self.waiting.get(timeout=0.05))
            except queue.Empty:
                continue
        return Frame("none", {"twins": self.twins})


def _gone(end: socket.socket) -> bool:
    """Whether whoever waits for an answer has died: it must not get what others wait for."""
    try:
        return end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class _Slow:
    """A socket that is read at a rate, and counts what came."""

    def __init__(self, end: socket.socket, coordinator: Coordinator) -> None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._end, self._coordinator, self._rate = end, coordinator, coordinator.rate
        coordinator.slow = end

    def recv_into(self, view: memoryview) -> int:
        count = self._end.recv_into(view[: self._rate // 20])
        self._coordinator.received += count
        time.sleep(count / self._rate)
        return count


@contextmanager
def coordinator(state: Path) -> Iterator[Coordinator]:
    """A stand-in that the site's connection will find."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as server:
        it = Coordinator(server.getsockname()[1])
        (state / PLACE).write_text(json.dumps(it.port))
        thread = threading.Thread(target=it.serve, args=(server,), daemon=True)
        thread.start()
        yield it
        it.down = True
        server.shutdown(socket.SHUT_RDWR)


def main() -> None:
    end = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[3]))
    port = json.loads((Path(sys.argv[2]) / PLACE).read_text())
    ConnectionState(end, lambda: TcpLine(port)).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
