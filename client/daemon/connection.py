"""The connection: a process around Flower's fleet client, which may be killed at any time.

The supervisor starts ``python -m client.daemon.connection`` with one end of a pair of sockets. One
thread keeps the line and asks for work, one pushes replies, one listens to the supervisor, which
says::

    go        ask for work                       hold    do not
    renew     make the coordinator ask again     push    a reply, one at a time

and hears ``ready``, ``line`` (its state, why, what to do), ``request``, ``pushed``, ``unpushable``,
``unreadable`` and ``foreign``. While the line is down, it is tried again without end. With each new
line the node is deactivated and activated again, which makes the coordinator repeat the requests
that it waits for.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from client import node_key
from client.daemon import frames
from client.daemon.child import Backoff
from client.daemon.fleet import Fleet, new_instance
from client.daemon.frames import BrokenFrame, Frame
from client.daemon.line_errors import (
    ForeignCode,
    NotAdmitted,
    NotValidNow,
    Skewed,
    Unreadable,
    Untrusted,
)
from client.node_key import load_node_key
from client.process_limits import EXIT_UNUSABLE
from common.errors import ConsiliumError, LinkError
from common.files import sha256
from common.process import logs
from common.process.logs import place
from common.process.parent import die_with_parent
from common.wire import flower
from common.wire.enrolment import COORDINATOR_CARD, read_coordinator_card
from common.wire.flower import Message, RecordDict
from common.wire.messages import request_from_record

SHORTEST_PULL: Final = 2.0
"""Seconds: a pull that gives nothing sooner was not held by the coordinator."""
LONGEST_PURPOSE: Final = 64
"""Characters of what a message says it is for; those of ours have about ten."""
BETWEEN_PULLS: Final = 3.0
"""Seconds between two pulls that are not held, or that brought what ours never send."""

TWINS: Final = "two machines are connected as this site since {}: this one and another"
STOP_ONE: Final = (
    "both have a copy of this state folder: compare the charges in consilium-site ledger, and stop "
    "the machine with fewer of them permanently, because its privacy ledger is behind; if each has "
    "charges that the other lacks, see docs/site.md, If the disk fails. Until then the coordinator "
    "sends no request to either"
)

_STATES: Final[dict[type[LinkError], str]] = {
    Skewed: "skewed",
    NotValidNow: "skewed",
    NotAdmitted: "refused",
    Untrusted: "refused",
}

log = structlog.get_logger(__name__)


class FleetLink(Protocol):
    """What is needed of a fleet client: one thread pulls, one pushes, one may reconnect."""

    @property
    def twins(self) -> str:
        """Since when another machine is connected as this site too; empty where none is."""

    def connect(self) -> None:
        """Deactivate and activate this site's node.

        Raises:
            LinkError: the coordinator cannot be reached, or does not accept this site.
        """

    def pull(self) -> Message | None:
        """The next message, once it is there; None where there was none for a while.

        Raises:
            ForeignCode: what came is of a run that brings code.
            Unreadable: what came is no message.
            LinkError: as for :meth:`connect`.
        """

    def push(self, reply: Message) -> bool:
        """Send a reply, all of it; False where the coordinator does not wait for it.

        Raises:
            LinkError: as for :meth:`connect`.
        """

    def close(self) -> None:
        """Deactivate the node where the line is up, and close it permanently."""


class ConnectionState:
    """The state that the three threads share.

    Args:
        end: of the pair of sockets.
        new_line: makes a line to the coordinator.
    """

    def __init__(self, end: socket.socket, new_line: Callable[[], FleetLink]) -> None:
        self._end = end
        self._new_line = new_line
        self._line = new_line()
        self._saying = threading.Lock()
        self._changed = threading.Condition()
        self._pulling = self._renewing = self._online = self._ending = False
        self._outgoing: Frame | None = None

    def serve(self) -> None:
        """Do what the supervisor says until it closes its end."""
        threads = [
            threading.Thread(target=self._keep_line, name="line", daemon=True),
            threading.Thread(target=self._push_all, name="push", daemon=True),
        ]
        for thread in threads:
            thread.start()
        self._say("ready")
        try:
            while (frame := frames.receive(self._end)) is not None:
                with self._changed:
                    self._obey(frame)
                    self._changed.notify_all()
        except (BrokenFrame, ConnectionError):  # the supervisor is gone
            pass
        with self._changed:
            self._ending = True
            self._pulling = False
            self._changed.notify_all()
        # A pull may be held for many seconds; the end of the daemon does not wait for it.
        self._line.close()

    def _obey(self, frame: Frame) -> None:
        if frame.kind == "push":
            self._outgoing = frame
        elif frame.kind == "renew":
            if self._online:  # else it is about to connect anyway
                # In a thread: connecting takes seconds, and this one has to hear the supervisor.
                threading.Thread(target=self._reconnect, name="renew", daemon=True).start()
        else:
            self._pulling = frame.kind == "go"

    def _keep_line(self) -> None:
        backoff = Backoff()
        while self._until(self._is_wanted, None):
            try:
                self._say("line", state="connecting")
                self._line.connect()
                self._say_online()
                self._use_line(backoff)
            except LinkError as error:
                self._lost(error)
                self._until(lambda: self._ending, backoff.next())

    def _reconnect(self) -> None:
        """Make the coordinator ask again, while a poll is held and a reply may be on its way."""
        try:
            self._line.connect()
        except LinkError as error:
            self._lost(error)
            with self._changed:
                self._renewing = True
                self._changed.notify_all()

    def _is_wanted(self) -> bool:
        return self._pulling or self._outgoing is not None

    def _use_line(self, backoff: Backoff) -> None:
        """Ask for work until the line is not wanted, or a new one is needed."""
        with self._changed:
            self._renewing, self._online = False, True
            self._changed.notify_all()
        try:
            while self._is_wanted() and not self._renewing and not self._ending:
                if self._pulling:
                    self._pull()
                    self._say_online()
                    # Only after an answer: a coordinator may let every site in, and then say
                    # nothing that can be read.
                    backoff.reset()
                else:  # replies are still on their way
                    self._until(lambda: self._pulling or not self._is_wanted(), 5)
        finally:
            self._online = False
        if not self._is_wanted() and not self._ending:
            self._line.close()
            self._line = self._new_line()
            self._say("line", state="paused")

    def _pull(self) -> None:
        begun = time.monotonic()
        try:
            message = self._line.pull()
        except ForeignCode as refused:
            self._say("foreign", what=refused.what, found=refused.details.get("found", ""))
            self._until(lambda: self._ending or self._renewing, BETWEEN_PULLS)
            return
        except Unreadable as refused:
            self._send(Frame("unreadable", {"hash": refused.message_id, "size": refused.size}))
            self._until(lambda: self._ending or self._renewing, BETWEEN_PULLS)
            return
        if message is not None:
            self._hand_over(message)
        # A coordinator that holds no pulls is asked every 3 s, not without a pause.
        elif time.monotonic() - begun < SHORTEST_PULL:
            self._until(lambda: self._ending or self._renewing, BETWEEN_PULLS)

    def _hand_over(self, message: Message) -> None:
        data = _packed(message)
        purpose = message.metadata.message_type.split(".")[-1][:LONGEST_PURPOSE]
        fields: dict[str, str | int] = {"purpose": purpose}
        try:
            request = request_from_record(message.content)
        except Exception as error:  # noqa: BLE001 - whatever it is, the site's gates refuse it
            log.warning("request.unreadable", error=type(error).__name__, at=place(error))
            # The site's gates refuse it; with an identity, the queue holds it only once.
            content = message.metadata.message_type + message.metadata.message_id
            fields |= {"identity": sha256(content.encode())}
        else:
            fields |= {"identity": request.identity, "study": request.study}
            fields |= {"plan_hash": request.plan_hash, "round": request.round}
        self._send(Frame("request", fields, data))

    def _push_all(self) -> None:
        backoff = Backoff()
        while self._until(lambda: self._online and self._outgoing is not None, None):
            frame = self._outgoing
            if frame is None:
                continue
            try:
                wanted = self._line.push(flower.message_from_bytes(frame.payload))
            except LinkError as error:
                # The push is kept and tried again: whether the reply arrived is not known.
                self._lost(error)
                with self._changed:
                    self._renewing = True
                    self._changed.notify_all()
                self._until(lambda: self._ending, backoff.next())
                continue
            except ConsiliumError as error:
                log.error("reply.unpushable", why=error.what)
                self._done(Frame("unpushable", {"what": error.what}))
            except Exception as error:  # noqa: BLE001 - one reply must not end the others
                log.error("reply.unpushable", error=type(error).__name__, at=place(error))
                self._done(Frame("unpushable", {"what": "a defect; the log says where"}))
            else:
                self._done(Frame("pushed", {"wanted": wanted}))
            backoff.reset()

    def _say_online(self) -> None:
        since = self._line.twins
        told = {"what": TWINS.format(since), "remedy": STOP_ONE} if since else {}
        self._say("line", state="online", **told)

    def _done(self, frame: Frame) -> None:
        with self._changed:
            self._outgoing = None
            self._changed.notify_all()
        self._send(frame)

    def _lost(self, error: LinkError) -> None:
        remedy = error.details.get("do", "")
        found = error.details.get("found", "")
        state = _STATES.get(type(error), "offline")
        self._say("line", state=state, what=error.what, found=found, remedy=remedy)

    def _say(self, kind: str, **fields: str) -> None:
        self._send(Frame(kind, dict(fields)))

    def _send(self, frame: Frame) -> None:
        with self._saying:
            try:
                frames.send(self._end, frame)
            except OSError:  # the supervisor is gone, and the listening thread knows
                log.debug("connection.unheard", kind=frame.kind)

    def _until(self, condition: Callable[[], bool], seconds: float | None) -> bool:
        """Wait for a condition, or the end; False where the connection ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending or condition(), seconds)
            return not self._ending


def _packed(message: Message) -> bytes:
    """A message as it goes to the worker; its content is left out where that does not fit into it.

    Numbers that Flower's objects hold and its messages do not would otherwise end this process.
    Without content it is refused as any message that cannot be read.
    """
    try:
        return flower.message_bytes(message)
    except Exception as error:  # noqa: BLE001 - whatever it is, the site's gates refuse it
        log.warning("request.unpackable", error=type(error).__name__, at=place(error))
        message.content = RecordDict()
        return flower.message_bytes(message)


def _end(failed: threading.ExceptHookArgs) -> None:
    """A thread met a defect: end the process, which the supervisor starts again."""
    at = place(failed.exc_value) if failed.exc_value else "unknown"
    log.error("connection.defect", error=failed.exc_type.__name__, at=at)
    os._exit(1)


def main() -> None:
    """Run the connection: arguments are the socket's number, the state folder, parent, form."""
    end = socket.socket(fileno=int(sys.argv[1]))
    state, parent, form = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    die_with_parent(parent)
    logs.configure("console" if form == "console" else "json", "info")
    threading.excepthook = _end
    try:
        card = read_coordinator_card(state / COORDINATOR_CARD)
        key = load_node_key(state / node_key.FILE)
    except ConsiliumError as error:
        told = {"what": error.what, "found": error.details.get("found", "")}
        told |= {"state": "refused", "remedy": error.details.get("do", "")}
        frames.send(end, Frame("line", told))
        os._exit(EXIT_UNUSABLE)
    instance = new_instance()
    ConnectionState(end, lambda: Fleet(card, key, instance)).serve()
    # Not a return: the threads of a pull that is held for 20 s must not delay the end.
    os._exit(0)


if __name__ == "__main__":
    main()
