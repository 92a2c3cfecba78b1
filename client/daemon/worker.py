"""The worker: opens the site, and answers one message after the other until it is killed.

The supervisor starts ``python -m client.daemon.worker`` with one end of a pair of sockets. The
worker sends ``ready`` when the site is open, and then one ``reply`` for each ``request``. It runs
the ``ClientApp`` that any of Flower's nodes would run, behind the same gates. It has no network:
replies go to the supervisor.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from client.daemon import frames
from client.daemon.frames import Frame
from client.process_limits import (
    EXIT_CARD,
    EXIT_MEMORY,
    EXIT_UNUSABLE,
    CardFailure,
    MemoryLimit,
    ProcessLimits,
    exhausted,
    private_memory,
)
from common.devices.devices import DEVICES
from common.documents import read_json
from common.errors import ConsiliumError
from common.process import logs
from common.process.logs import place
from common.process.parent import die_with_parent
from common.wire import flower
from common.wire.flower import ClientApp, Message

DEFECT: Final = "report this place; the worker is started again by itself"
SILENCE: Final = "silence"
"""In the place of a reply's code: nothing is to be sent."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """What the supervisor starts a worker with.

    Attributes:
        site: path of the site file.
        state: the site's state folder.
        known_seed: where the site's keys follow from a seed.
        limits: what the process may take.
        parent: number of the process that starts it.
        log_form: how it logs.
    """

    site: Path
    state: Path
    known_seed: int | None
    limits: ProcessLimits
    parent: int
    log_form: logs.Form

    @property
    def text(self) -> str:
        """As one argument of a command."""
        fields = asdict(self) | {"site": str(self.site), "state": str(self.state)}
        return json.dumps(fields)

    @classmethod
    def read(cls, text: str) -> Self:
        """What :attr:`text` says."""
        fields = read_json(text)
        fields |= {key: Path(fields[key]) for key in ("site", "state")}
        return cls(**fields | {"limits": ProcessLimits(**fields["limits"])})


def serve(end: socket.socket, settings: WorkerSettings) -> None:
    """Open the site and answer until the other end closes."""
    from client.app import build
    from client.consent.decisions import freeze_pending
    from client.site import open_site

    with open_site(settings.site, settings.state, settings.known_seed, serves=True) as site:
        structlog.contextvars.bind_contextvars(site=site.name)
        # Before the first message: what the card cannot give is said now, and not in a round.
        device, before = DEVICES[site.file.device.name], private_memory()
        device.hold(site.file.device.memory)
        # With all that is imported in memory: what fails now fails clearly.
        settings.limits.apply(max(0, private_memory() - before) if device.is_apart else 0)
        app = build({str(settings.site): site})
        frames.send(end, Frame("ready"))
        while (frame := frames.receive(end)) is not None:
            frames.send(end, respond(app, frame, settings))
            # After the reply: how long it takes to read a new plan's cohort must not be seen.
            freeze_pending(site)


def respond(app: ClientApp, frame: Frame, settings: WorkerSettings) -> Frame:
    """The frame that answers a request's."""
    message = flower.message_from_bytes(frame.payload)
    run, node = message.metadata.run_id, message.metadata.dst_node_id
    flower.identify(run, node)
    where = {"site": str(settings.site), "state": str(settings.state)}
    if settings.known_seed is not None:
        where["known-seed"] = str(settings.known_seed)
    reply = app(message, flower.context(run, node, node=where, run={}))
    code = said(reply)
    payload = b"" if code == SILENCE else flower.message_bytes(reply)
    return Frame("reply", {"message": frame.fields["message"], "code": code}, payload)


def said(reply: Message) -> str:
    """The code of a reply; :data:`SILENCE` where it must not be sent."""
    if reply.has_error():
        return SILENCE
    return str(reply.content.config_records["fields"]["code"])


def main() -> None:
    """Run the worker: arguments are the socket's number and the settings."""
    end = socket.socket(fileno=int(sys.argv[1]))
    settings = WorkerSettings.read(sys.argv[2])
    die_with_parent(settings.parent)
    logs.configure(settings.log_form, "info")
    try:
        serve(end, settings)
    except ConsiliumError as error:
        log.error("worker.unusable", error=type(error).__name__, why=error.what)
        frames.send(end, Frame("unusable", {"what": error.what, "remedy": error.details.get("do")}))
        os._exit(EXIT_UNUSABLE)
    except (MemoryLimit, MemoryError):
        # An exit code, not a frame: without memory nothing can be sent any more.
        os._exit(EXIT_MEMORY)
    except CardFailure as error:
        cause = error.__cause__ or error
        log.error("card.failed", error=type(cause).__name__, at=place(cause))
        os._exit(EXIT_CARD)
    except Exception as error:  # noqa: BLE001 - its text may hold what must not be logged
        name, at = type(error).__name__, place(error)
        log.error("worker.defect", error=name, at=at)
        if exhausted(error):
            os._exit(EXIT_MEMORY)
        told = {"what": f"a defect in Consilium: {name} at {at}", "remedy": DEFECT}
        frames.send(end, Frame("unusable", told))
        os._exit(EXIT_UNUSABLE)


if __name__ == "__main__":
    main()
