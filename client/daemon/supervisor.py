"""The supervisor: keeps a connection and a worker, and hands messages from one to the other.

Everything that either process says, and its death, arrives here as an event. One thread handles
each event as a whole, so that what an administrator stops is stopped before anything else is sent.
None of it reads an image or speaks to the coordinator. Beside it in the same process are the
metrics and the two threads of :mod:`client.daemon.executor`, of which the slow one reads images.
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
from client.consent.problems import Fate, Problem
from client.daemon.child import Child
from client.daemon.conditions import UNREACHED, Condition, death, now
from client.daemon.frames import Frame
from client.daemon.metrics import DaemonMetrics
from client.daemon.request_queue import MOST_DEATHS, QueuedRequest, RequestQueue, Stopped
from client.daemon.worker import WorkerSettings
from client.process_limits import EXIT_UNUSABLE, ProcessLimits
from client.sitefile import Programs, ServedSite
from common.process import logs
from common.process.claim import notify, watchdog_seconds
from common.wire.messages import OK, Purpose

UNWANTED: Final = "it came too late, or the coordinator had it already"
LATE: Final = (
    "nothing, if it happens once. If it happens again, this machine is too slow for the study's "
    "round_timeout: give it less other work, or ask the coordinator for a longer round_timeout"
)
LOOK_SECONDS: Final = 10.0
"""Seconds between two looks at the clock."""
ENDING: Final = 1.0
"""Seconds that the connection has to deactivate its node when the daemon ends."""

log = structlog.get_logger(__name__)


class Supervisor:
    """The middle of a site's daemon; see :meth:`running`.

    Args:
        served: the site.
        metrics: where to count.
        programs: what the two processes run.
        note: writes a line into the audit log.
        failed: keeps what failed for the site's staff.
    """

    def __init__(
        self,
        served: ServedSite,
        metrics: DaemonMetrics,
        programs: Programs,
        note: Callable[..., None] = lambda event, **fields: None,
        failed: Callable[[Problem], None] = lambda problem: None,
    ) -> None:
        self.served = served
        self._note, self._failed = note, failed
        self.requests = RequestQueue()
        self.line = Condition("connecting" if served.card else "none")
        self.work = Condition("starting" if served.card else "none")
        self.worker_fault: Condition | None = None
        self.last_message = ""
        self._metrics = metrics
        self._paused = False
        self.in_hours = True  # whether the site's hours allow work now
        self._pulling = self._reached = False
        self._messages = 0
        form = logs.form_for(sys.stderr.isatty())
        device, keys = served.file.device, (served.path, served.state, served.known_seed)
        limits = ProcessLimits(device.nice, device.memory_limit_mib, device.gpu)
        settings = WorkerSettings(*keys, limits, os.getpid(), form)
        self.worker = Child(
            "worker",
            [sys.executable, "-m", programs.worker, "{fd}", settings.text],
            environment=limits.environment,
            heard=self._heard_worker,
            died=self._worker_died,
        )
        state, parent = str(served.state), str(os.getpid())
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
        if self.served.card:
            self._look_at_the_clock()
            self.worker.start()
            self.connection.start()
        else:
            log.warning(
                "daemon.not_joined",
                why="This site has not joined a coordinator. It waits and sends nothing.",
                do="Run: consilium-site join COORDINATOR.json, then restart the daemon.",
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
        """Whether no new work is taken: a person paused the site, or its hours say so."""
        return self._paused or not self.in_hours

    def pause(self, paused: bool) -> None:
        """Take no new work, or take it again."""
        self._paused = paused
        self._dispatch()

    def stop(self, study: str) -> Stopped:
        """Let nothing more of a study out: end the processes that work on it, forget what waits.

        Args:
            study: a name, or the beginning of a plan's hash.
        """
        stopped = self.requests.stop(study)
        for job in stopped.forgotten:
            about = {"study": job.study, "plan": job.plan_hash, "round": job.round}
            about |= {"purpose": job.purpose, "hash": job.identity}
            # Noted here, since no worker answers it any more.
            self._note("message.silence", why="stopped before it was answered", **about)
        if stopped.worker:
            self.work = Condition("restarting", "the study that it worked on was stopped")
            self.worker.kill()
        if stopped.connection:
            self.line = Condition("restarting", "the study whose reply it sent was stopped")
            self.connection.kill()
        return stopped

    def renew(self) -> None:
        """A person decided on a plan that waits: make the coordinator ask again at once."""
        self.connection.send(Frame("renew"))

    def _dispatch(self) -> None:
        """Give each process the work that waits for it; may be called at any time."""
        pulling = not self.held and self.requests.has_room(again=not self._pulling)
        # A process that is being started is told after its `ready`.
        if pulling != self._pulling and self.line.state != "restarting":
            self._pulling = pulling
            self.connection.send(Frame("go" if pulling else "hold"))
        idle = self.work.state == "idle" and not self.held
        if idle and (job := self.requests.take()) is not None:
            self.work = Condition("working")
            self.worker.send(Frame("request", {"message": job.message}, job.request))
        if self._connected and (outgoing := self.requests.send()) is not None:
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
        job, code = self.requests.working, frame.fields["code"]
        if job is not None:
            # A closed list: else each word that a coordinator invents makes a time series.
            known = job.purpose in get_args(Purpose)
            self._metrics.answered(job.purpose if known else "unknown", code)
            self.worker_fault = None
        self.requests.answered(frame.fields["message"], code, frame.payload)

    def _worker_died(self, status: int, killed: bool) -> None:
        self._metrics.restarted("worker")
        job, given_up = self.requests.working, self.requests.died(killed=killed)
        if not killed and status != EXIT_UNUSABLE:
            self.worker_fault = death(status, self.served.file.device.memory_limit_mib)
            log.error("worker.died", why=self.worker_fault.why, do=self.worker_fault.remedy)
        if job is not None and self.worker_fault is not None and not killed:
            why = self.worker_fault.why
            if given_up is not None:
                why = f"it was given up, because {MOST_DEATHS} workers ended at it; the last: {why}"
            self._keep(job, why, self.worker_fault.remedy)
        if given_up is not None:
            about = {"study": given_up.study, "round": given_up.round}
            about |= {"purpose": given_up.purpose, "why": f"{MOST_DEATHS} workers died of it"}
            log.error("request.dropped", **about)
            self._note("request.dropped", **about)
        self.work = Condition("restarting")

    def _keep(self, job: QueuedRequest, why: str, remedy: str, how: Fate = "silence") -> None:
        self._failed(Problem(job.study, job.purpose, job.round, why, remedy, now(), how))

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
                self.requests.pushed()
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
        if fields.get("what") == UNREACHED and not self._reached and self.served.card:
            why = f"{self.served.card.address} was never reached"
            remedy = "check the address and the firewall; the site tries again by itself"
        if state == "connecting" and self.line.state != "paused":
            return  # one more try: the reason why it was lost stays in the status
        if (state, why) == (self.line.state, self.line.why):
            return
        self.line = Condition(state, why, remedy)
        self._metrics.line(state)
        well = state in ("online", "paused", "connecting") and not remedy
        say = log.info if well else log.warning
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
        again = not self.requests.arrive(job)
        log.info(
            "request.arrived",
            study=job.study,
            round=job.round,
            purpose=job.purpose,
            bytes=len(job.request),
            again=again,
        )

    def _pushed(self, *, wanted: bool) -> None:
        sent = self.requests.pushed()
        if sent is not None:
            if not wanted and sent.code == OK and sent.job.purpose in ("train", "evaluate"):
                self._keep(sent.job, UNWANTED, LATE, "late")
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
        self.requests.line_lost()
        # Where the process said why before it ended, or was ended by us, that reason stays.
        known = status == EXIT_UNUSABLE or (killed and self.line.state == "restarting")
        why, remedy = (self.line.why, self.line.remedy) if known else ("its process ended", "")
        self.line = Condition("restarting", why, remedy)

    async def _keep_time(self) -> None:
        """Look at the hours now and then, and tell systemd that all is well."""
        # The watchdog too: a supervisor that hangs could stop nothing, so systemd restarts it.
        every = min(LOOK_SECONDS, watchdog_seconds() or LOOK_SECONDS)
        while True:
            await asyncio.sleep(every)
            notify("WATCHDOG=1")
            self._look_at_the_clock()
            self._dispatch()

    def _look_at_the_clock(self) -> None:
        hours = self.served.file.policy.hours
        inside = within(hours, datetime.now().astimezone().time())
        if inside != self.in_hours:
            log.info("daemon.hours", hours=hours, working=inside)
        self.in_hours = inside


async def until_told() -> None:
    """Return when this process is asked to end: SIGTERM, or SIGINT from a keyboard."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    with contextlib.suppress(asyncio.CancelledError):
        await told.wait()
    notify("STOPPING=1")
