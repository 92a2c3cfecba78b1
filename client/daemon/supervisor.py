"""The supervisor: keeps a connection and a worker, and hands messages from one to the other.

Whatever either process does, dies of or says arrives here as an event; each is handled in
one go on one thread, so that what an administrator stops is stopped before anything else is
sent. The supervisor itself reads no image and opens no socket to the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, get_args

import structlog

from client.consent.policy import within
from client.daemon.child import Child
from client.daemon.conditions import UNREACHED, Condition, death, now
from client.daemon.frames import Frame
from client.daemon.metrics import DaemonMetrics
from client.daemon.request_queue import MOST_DEATHS, QueuedRequest, RequestQueue, Stopped
from client.daemon.worker import WorkerSettings
from client.memory import EXIT_UNUSABLE, ProcessLimits
from client.sitefile import Programs, ServedSite
from common.process import logs
from common.process.claim import notify, watchdog_seconds
from common.wire.messages import Purpose

TICK: Final = 10.0
"""Seconds between two looks at the clock."""
ENDING: Final = 1.0
"""Seconds that the connection has to say goodbye."""

log = structlog.get_logger(__name__)


class Supervisor:
    """The middle of a site's daemon; see :meth:`running`.

    Args:
        place: what is served.
        metrics: where to count.
        programs: what the two processes run.
        note: writes a line into the audit log.
    """

    def __init__(
        self,
        place: ServedSite,
        metrics: DaemonMetrics,
        programs: Programs,
        note: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        self.place = place
        self._note = note
        self.hub = RequestQueue()
        self.line = Condition("connecting" if place.card else "none")
        self.work = Condition("starting" if place.card else "none")
        self.worker_fault: Condition | None = None
        self.dropped: list[str] = []
        self.last_message = ""
        self._metrics = metrics
        self._paused = False
        self._in_hours = True
        self._pulling = self._reached = False
        self._messages = 0
        form = logs.form_for(sys.stderr.isatty())
        limits = ProcessLimits(
            place.file.device.nice, place.file.device.memory_limit_mib, place.file.device.gpu
        )
        order = WorkerSettings(place.path, place.state, place.known_seed, limits, os.getpid(), form)
        self.worker = Child(
            "worker",
            [sys.executable, "-m", programs.worker, "{fd}", order.text],
            environment=limits.environment,
            heard=self._heard_worker,
            died=self._worker_died,
        )
        state, parent = str(place.state), str(os.getpid())
        self.connection = Child(
            "connection",
            [sys.executable, "-m", programs.connection, "{fd}", state, parent, form],
            heard=self._heard_connection,
            died=self._connection_died,
        )

    @asynccontextmanager
    async def running(self, *, paused: bool) -> AsyncIterator[None]:
        """Keep both processes for as long as the body lasts.

        Args:
            paused: whether a person told the site to take no new work.
        """
        self._paused = paused
        if self.place.card:
            self._look_at_the_clock()
            self.worker.start()
            self.connection.start()
        else:
            log.warning(
                "daemon.not_joined",
                why="this site has joined no coordinator: only the control service is up",
                do="consilium-site join COORDINATOR.json, then start again; where a stock "
                "SuperNode carries the messages, nothing",
            )
        clock = asyncio.create_task(self._keep_time())
        try:
            yield
        finally:
            clock.cancel()
            self.work = self.line = Condition("none")
            await asyncio.gather(self.connection.close(ENDING), self.worker.close(0.2))

    @property
    def held(self) -> bool:
        """Whether no new work is taken, because of a person or of the hours."""
        return self._paused or not self._in_hours

    @property
    def in_hours(self) -> bool:
        """Whether the site's hours allow work now."""
        return self._in_hours

    @property
    def working(self) -> QueuedRequest | None:
        """What the worker is at."""
        return self.hub.working

    def pause(self, paused: bool) -> None:
        """Take no new work, or take it again."""
        self._paused = paused
        self._dispatch()

    def stop(self, study: str) -> Stopped:
        """Let nothing more of a study out: end whoever is at it, forget what waits.

        Args:
            study: a name, or the beginning of a plan's hash.
        """
        stopped = self.hub.stop(study)
        for job in stopped.forgotten:
            about = {"study": job.study, "plan": job.plan_hash, "round": job.round}
            about |= {"purpose": job.purpose, "hash": job.identity}
            self._note("message.silence", why="stopped before it was answered", **about)
        if stopped.worker:
            self.work = Condition("restarting", "the study that it worked on was stopped")
            self.worker.kill()
        if stopped.connection:
            self.line = Condition("restarting", "the study whose reply it sent was stopped")
            self.connection.kill()
        log.warning("study.stopped", study=study, worker=stopped.worker, line=stopped.connection)
        return stopped

    def renew(self) -> None:
        """A person decided on a plan that waits: let the coordinator ask again at once."""
        self.connection.send(Frame("renew"))

    def _dispatch(self) -> None:
        """Give everyone what there is for them; harmless at any time."""
        pulling = not self.held and self.hub.has_room(again=not self._pulling)
        if pulling != self._pulling and self.line.state != "restarting":
            self._pulling = pulling
            self.connection.send(Frame("go" if pulling else "hold"))
        if self.work.state == "idle" and not self.held and (job := self.hub.take()) is not None:
            self.work = Condition("working")
            self.worker.send(Frame("request", {"message": job.message}, job.request))
        if self._connected and (outgoing := self.hub.send()) is not None:
            self.connection.send(Frame("push", {}, outgoing.reply))

    @property
    def _connected(self) -> bool:
        """Whether there is a process to push with; its line may be down."""
        return self.line.state not in ("none", "restarting") and self.connection.pid is not None

    def _heard_worker(self, frame: Frame) -> None:
        if frame.kind == "unusable":
            self.worker_fault = Condition(
                "restarting", frame.fields["what"], frame.fields["remedy"] or ""
            )
            return
        if frame.kind == "reply":
            self._answered(frame)
        self.work = Condition("idle")
        self._dispatch()

    def _answered(self, frame: Frame) -> None:
        job, code = self.hub.working, frame.fields["code"]
        if job is not None:
            known = job.purpose in get_args(Purpose)
            self._metrics.answered(job.purpose if known else "unknown", code)
            self.worker_fault = None
        self.hub.answered(frame.fields["message"], code, frame.payload)

    def _worker_died(self, status: int, killed: bool) -> None:
        self._metrics.restarted("worker")
        given_up = self.hub.died(killed=killed)
        if not killed and status != EXIT_UNUSABLE:
            self.worker_fault = death(status, self.place.file.device.memory_limit_mib)
            log.error("worker.died", why=self.worker_fault.why, do=self.worker_fault.remedy)
        if given_up is not None:
            about = {"study": given_up.study, "round": given_up.round}
            about |= {"purpose": given_up.purpose, "why": f"{MOST_DEATHS} workers died of it"}
            log.error("request.dropped", **about)
            self._note("request.dropped", **about)
            self.dropped = [*self.dropped[-9:], f"{given_up.study} round {given_up.round}"]
        self.work = Condition("restarting")

    def _heard_connection(self, frame: Frame) -> None:
        match frame.kind:
            case "ready":
                self.line = Condition("connecting")
                self._metrics.line("connecting")
                self._pulling = False
            case "line":
                self._line_is(frame.fields)
            case "request":
                self._arrived(frame)
            case "pushed":
                self._pushed(wanted=frame.fields["wanted"])
            case "unpushable":
                self.hub.pushed()
            case "unreadable":
                self._note("message.in", unreadable=True, purpose="unknown", **frame.fields)
                self._note("message.silence", why="Unreadable", purpose="unknown")
            case "foreign":
                found = frame.fields["found"]
                log.error("bundle.refused", why=frame.fields["what"], found=found)
                self._note("bundle.refused", found=found)
        self._dispatch()

    def _line_is(self, fields: dict[str, str]) -> None:
        state, why = fields["state"], fields.get("what", "")
        remedy = fields.get("remedy", "")
        if fields.get("found"):
            why = f"{why}: {fields['found']}"
        self._reached = self._reached or state == "online"
        if fields.get("what") == UNREACHED and not self._reached and self.place.card:
            why = f"never reached {self.place.card.address}"
            remedy = "check the address and the firewall; the site tries again by itself"
        if state == "connecting" and self.line.state != "paused":
            return  # one more try: what is known about the line stays
        if (state, why) == (self.line.state, self.line.why):
            return
        self.line = Condition(state, why, remedy)
        self._metrics.line(state)
        say = log.info if state in ("online", "paused", "connecting") else log.warning
        say("connection.state", state=state, why=why, do=self.line.remedy)

    def _arrived(self, frame: Frame) -> None:
        self._messages += 1
        self.last_message = now()
        fields = frame.fields
        job = QueuedRequest(
            identity=fields["identity"],
            study=fields.get("study", ""),
            plan_hash=fields.get("plan_hash", ""),
            round=fields.get("round", 0),
            purpose=fields["purpose"],
            message=self._messages,
            request=frame.payload,
        )
        again = not self.hub.arrive(job)
        log.info(
            "request.arrived",
            study=job.study,
            round=job.round,
            purpose=job.purpose,
            bytes=len(job.request),
            again=again,
        )

    def _pushed(self, *, wanted: bool) -> None:
        sent = self.hub.pushed()
        if sent is not None:
            self._metrics.sent(len(sent.reply) if wanted else 0)
            log.info(
                "reply.pushed",
                study=sent.job.study,
                round=sent.job.round,
                purpose=sent.job.purpose,
                code=sent.code,
                bytes=len(sent.reply) if wanted else 0,
                wanted=wanted,
            )

    def _connection_died(self, status: int, killed: bool) -> None:
        self._metrics.restarted("connection")
        self._metrics.line("restarting")
        self.hub.line_lost()
        known = status == EXIT_UNUSABLE or (killed and self.line.state == "restarting")
        why, remedy = (self.line.why, self.line.remedy) if known else ("its process ended", "")
        self.line = Condition("restarting", why, remedy)

    async def _keep_time(self) -> None:
        """Look at the hours now and then, and tell systemd that all is well."""
        every = min(TICK, watchdog_seconds() or TICK)
        while True:
            await asyncio.sleep(every)
            notify("WATCHDOG=1")
            self._look_at_the_clock()
            self._dispatch()

    def _look_at_the_clock(self) -> None:
        hours = self.place.file.policy.hours
        inside = within(hours, datetime.now().astimezone().time())
        if inside != self._in_hours:
            log.info("daemon.hours", hours=hours, working=inside)
        self._in_hours = inside


async def until_told() -> None:
    """Return when this process is asked to end: SIGTERM, or SIGINT from a keyboard."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    with contextlib.suppress(asyncio.CancelledError):
        await told.wait()
    notify("STOPPING=1")
