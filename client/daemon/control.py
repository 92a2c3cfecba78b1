"""The control service: what the administrator may ask, on a socket that is the daemon's alone.

What concerns the site is done by :mod:`client.administration.service` in threads of their own, what
concerns the processes by the supervisor. Ending a study does both: first nothing of it is
let out any more, then it is decided and noted, after which the site itself is silent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Final

import structlog

from client.administration import service
from client.administration.service import Left, Spending, StudyRow
from client.consent.rejected import RejectedProposal
from client.daemon.conditions import now
from client.daemon.executor import SiteExecutor
from client.daemon.supervisor import Supervisor
from client.records import audit_log
from client.sitefile import known_coordinator
from common.control import site_pb2 as pb
from common.control.site_pb2_grpc import SiteServicer
from common.errors import ConsiliumError, SiteError
from common.wire.enrolment import CoordinatorCard

SERVICE: Final = "consilium.site.v1.Site"
FOLLOWING: Final = 1.0
"""Seconds between two looks at the audit log for whoever follows it."""

log = structlog.get_logger(__name__)


class SiteControl(SiteServicer):
    """The service.

    Args:
        supervisor: keeps the processes.
        quick: answers what takes no time.
        slow: does what may take minutes.
        chain: what was found about the audit log when the daemon started.
        faults: what a person should mend about it, each with its remedy.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        quick: SiteExecutor,
        slow: SiteExecutor,
        *,
        chain: str,
        faults: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._supervisor = supervisor
        self._quick, self._slow = quick, slow
        self._chain, self._faults = chain, faults
        self._started = now()

    async def Status(self, request: pb.StatusRequest, context: object) -> pb.StatusReply:
        """Everything at a glance."""
        site = await self._quick.ask(service.status)
        supervisor = self._supervisor
        place = supervisor.place
        warnings = [*self._faults, *site.warnings, *self._own_warnings()]
        return pb.StatusReply(
            site=site.site,
            version=version("consilium"),
            pid=os.getpid(),
            started=self._started,
            warnings=[pb.Notice(what=what, remedy=remedy) for what, remedy in warnings],
            connection=self._connection(),
            worker=self._worker(),
            studies=[_row(each) for each in site.studies],
            paused=pb.Paused(
                by_person=bool(site.paused_by),
                by_hours=not supervisor.in_hours,
                hours=place.file.policy.hours or "",
            ),
            audit=f"{site.audit_length} lines; at the daemon's start {self._chain}",
            known_key=site.known_key,
            declined=[_declined(each) for each in site.declined],
        )

    async def Studies(self, request: pb.StudiesRequest, context: object) -> pb.StudiesReply:
        """Every plan that was ever proposed."""
        rows = await self._quick.ask(service.studies)
        refused = await self._quick.ask(service.declined)
        return pb.StudiesReply(
            studies=[_row(each) for each in rows], declined=[_declined(each) for each in refused]
        )

    async def Show(self, request: pb.ShowRequest, context: object) -> pb.ShowReply:
        """One plan in plain words; whom it would find has to be read, which may take minutes."""
        shown = await self._slow.ask(
            partial(
                service.show,
                study=request.study,
                plan_hash=request.plan_hash or None,
                by=request.by,
            )
        )
        return pb.ShowReply(
            plan_hash=shown.row.plan_hash,
            state=shown.row.state,
            text=shown.text,
            epsilon=shown.row.epsilon,
            document=shown.document,
            study=shown.row.name,
            warnings=shown.row.warnings,
            decided=shown.row.decided,
            by=shown.row.by,
        )

    async def Approve(self, request: pb.ApproveRequest, context: object) -> pb.ApproveReply:
        """Approve a plan; the coordinator is then made to ask again at once."""
        if not request.plan_hash:
            raise SiteError(
                "an approval is of one plan, and names its hash",
                where=f"study {request.study}",
                remedy="read it with consilium-site show, which ends with its hash",
            )
        approved = await self._slow.ask(
            partial(
                service.approve,
                study=request.study,
                plan_hash=request.plan_hash,
                days=request.days or None,
                by=request.by,
            )
        )
        self._supervisor.renew()
        log.info("study.approved", study=approved.study, until=approved.expires)
        return pb.ApproveReply(
            study=approved.study,
            plan_hash=approved.plan_hash,
            expires=approved.expires,
            epsilon=approved.epsilon,
            patients=approved.patients,
            left_out=approved.left_out,
        )

    async def Deny(self, request: pb.DenyRequest, context: object) -> pb.StopReply:
        """Say no to a plan, which its coordinator is told; one that runs is stopped."""
        reply = await self._end(service.deny, request.study, request.by)
        if reply.state == "denied":
            self._supervisor.renew()
        return reply

    async def Stop(self, request: pb.StopRequest, context: object) -> pb.StopReply:
        """End a study now."""
        return await self._end(service.stop, request.study, request.by)

    async def Pause(self, request: pb.PauseRequest, context: object) -> pb.PauseReply:
        """Take no new work."""
        self._supervisor.pause(True)
        await self._quick.ask(partial(service.pause, by=request.by))
        return pb.PauseReply()

    async def Resume(self, request: pb.ResumeRequest, context: object) -> pb.ResumeReply:
        """Take work again."""
        await self._quick.ask(partial(service.resume, by=request.by))
        self._supervisor.pause(False)
        return pb.ResumeReply()

    async def Ledger(self, request: pb.LedgerRequest, context: object) -> pb.LedgerReply:
        """What the patients have spent."""
        report = await self._quick.ask(service.ledger)
        return pb.LedgerReply(
            studies=[_spending(each) for each in report.studies],
            limit_per_study=report.limit_per_study,
            limit_total=report.limit_total,
            delta=report.delta,
            most_spent=report.most_spent,
            length=report.length,
            head=report.head,
        )

    async def Audit(
        self, request: pb.AuditRequest, context: object
    ) -> AsyncIterator[pb.AuditEntry]:
        """The audit log, and with ``follow`` what is added to it."""
        after = request.after
        while True:
            for entry in await asyncio.to_thread(self._entries, after):
                after = entry.number
                yield entry
            if not request.follow:
                return
            await asyncio.sleep(FOLLOWING)

    async def OptOut(self, request: pb.OptOutRequest, context: object) -> pb.OptOutReply:
        """Leave patients out; studies that hold them go on without them."""
        task = partial(service.opt_out, patients=list(request.patients), by=request.by)
        done = await self._quick.ask(task)
        return pb.OptOutReply(
            added=done.added, known=done.known, left=done.left, unknown=done.unknown
        )

    async def _end(self, decide: Callable[..., Left], study: str, by: str) -> pb.StopReply:
        supervisor = self._supervisor
        supervisor.hub.silence(study)  # first: the decision may have to wait for the store
        try:
            before = supervisor.stop(study)
            left = await self._quick.ask(partial(decide, study=study, by=by))
            after = supervisor.stop(left.study)  # what came in between; the rest meets silence
        finally:
            supervisor.hub.speak(study)
        return pb.StopReply(
            study=left.study,
            plan_hash=left.plan_hash,
            state=left.state,
            rounds=left.rounds,
            replies=left.replies,
            bytes=left.bytes,
            epsilon=left.epsilon,
            worker_killed=before.worker or after.worker,
            connection_killed=before.connection or after.connection,
        )

    def _entries(self, after: int) -> list[pb.AuditEntry]:
        return [
            pb.AuditEntry(
                number=entry.number,
                at=entry.at,
                event=entry.event,
                fields={name: str(value) for name, value in entry.fields.items()},
                hash=entry.hash,
            )
            for entry in audit_log.entries(self._supervisor.place.state, after)
        ]

    def _own_warnings(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the processes, the worst first."""
        supervisor = self._supervisor
        fault, line = supervisor.worker_fault, supervisor.line
        if fault is not None:
            yield fault.why, fault.remedy
        for what in supervisor.dropped:
            yield (
                f"a request was given up, since every worker died of it: {what}",
                "mend what the worker died of; the coordinator will ask again",
            )
        if line.remedy:
            yield line.why, line.remedy
        joined = self._joined()
        if joined and joined != supervisor.place.card:
            yield (
                f"this site has joined {joined.name} since the daemon started",
                "start the daemon again",
            )
        elif not supervisor.place.card:
            yield (
                "this site has joined no coordinator: only these commands are served",
                "consilium-site join COORDINATOR.json, then start the daemon again",
            )

    def _joined(self) -> CoordinatorCard | None:
        """The coordinator that would be connected to after a start anew."""
        with suppress(ConsiliumError):
            return known_coordinator(self._supervisor.place.state)
        return None

    def _connection(self) -> pb.Connection:
        line = self._supervisor.line
        card = self._supervisor.place.card
        return pb.Connection(
            state=line.state,
            coordinator=card.name if card else "",
            address=card.address if card else "",
            since=line.since,
            why=line.why,
            remedy=line.remedy,
            last_message=self._supervisor.last_message,
            pid=self._supervisor.connection.pid or 0,
        )

    def _worker(self) -> pb.Worker:
        supervisor = self._supervisor
        job, fault = supervisor.working, supervisor.worker_fault
        return pb.Worker(
            state=supervisor.work.state,
            study=job.study if job else "",
            round=job.round if job else 0,
            purpose=job.purpose if job else "",
            since=supervisor.work.since,
            pid=supervisor.worker.pid or 0,
            restarts=supervisor.worker.restarts,
            why=fault.why if fault else "",
            remedy=fault.remedy if fault else "",
        )


def _row(row: StudyRow) -> pb.StudyRow:
    return pb.StudyRow(
        name=row.name,
        title=row.title,
        plan_hash=row.plan_hash,
        state=row.state,
        round=row.round,
        rounds=row.rounds,
        epsilon_spent=row.epsilon_spent,
        epsilon=row.epsilon,
        decided=row.decided,
        expires=row.expires,
        proposed=row.proposed,
        by=row.by,
        warnings=row.warnings,
    )


def _declined(each: RejectedProposal) -> pb.Declined:
    return pb.Declined(study=each.study, plan_hash=each.plan_hash, why=each.why)


def _spending(each: Spending) -> pb.Spending:
    return pb.Spending(
        study=each.study,
        plan_hash=each.plan_hash,
        state=each.state,
        rounds=each.rounds,
        evaluations=each.evaluations,
        epsilon_spent=each.epsilon_spent,
        epsilon=each.epsilon,
        patients=each.patients,
        gone=each.gone,
        left_out=each.left_out,
    )
