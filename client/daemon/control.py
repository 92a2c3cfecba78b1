"""The control service: what the administrator can ask, on a socket in the state folder.

:mod:`client.administration.service` does what concerns the site, in threads of their own; the
supervisor does what concerns the processes. Ending a study needs both: first nothing of it leaves
any more, then the decision is stored and noted, and after that the site itself is silent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Any, Final, TypeVar

import structlog
from google.protobuf.message import Message

from client.administration import service
from client.administration.views import Released
from client.consent.refusals import refused_proposals
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
"""Seconds between two looks at the audit log for a caller that follows it."""

M = TypeVar("M", bound=Message)

log = structlog.get_logger(__name__)


class SiteControl(SiteServicer):
    """The service.

    Args:
        supervisor: keeps the processes.
        quick: answers what takes no time.
        slow: does what may take minutes.
        chain: what was found about the audit log when the daemon started.
        faults: what is wrong with it, each with its remedy.
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
        told = [*self._faults, *site.warnings]
        # Of a worker that died at a request, the site's own warning says more.
        own = [each for each in self._own_warnings() if not any(each[0] in it for it, _ in told)]
        warnings = [*told, *own]
        return _message(
            pb.StatusReply,
            site,
            version=version("consilium"),
            pid=os.getpid(),
            started=self._started,
            warnings=[pb.Notice(what=what, remedy=remedy) for what, remedy in warnings],
            connection=self._connection(),
            worker=self._worker(),
            studies=[_message(pb.StudyRow, each) for each in site.studies],
            paused=pb.Paused(
                by_person=bool(site.paused_by),
                by_hours=not supervisor.in_hours,
                hours=supervisor.served.file.policy.hours or "",
            ),
            audit=f"{site.audit_length} lines; when the daemon started: {self._chain}",
            refused_proposals=[
                _message(pb.RefusedProposal, each) for each in site.refused_proposals
            ],
        )

    async def Studies(self, request: pb.StudiesRequest, context: object) -> pb.StudiesReply:
        """Every plan that was ever proposed."""
        rows = await self._quick.ask(service.studies)
        refused = await self._quick.ask(refused_proposals)
        return pb.StudiesReply(
            studies=[_message(pb.StudyRow, each) for each in rows],
            refused_proposals=[_message(pb.RefusedProposal, each) for each in refused],
        )

    async def Show(self, request: pb.ShowRequest, context: object) -> pb.ShowReply:
        """One plan in plain words; its cohort has to be read, which may take minutes."""
        shown = await self._slow.ask(
            partial(
                service.show,
                study=request.study,
                plan_hash=request.plan_hash or None,
                by=request.by,
            )
        )
        row = shown.row
        return _message(pb.ShowReply, row, study=row.name, text=shown.text, document=shown.document)

    async def Approve(self, request: pb.ApproveRequest, context: object) -> pb.ApproveReply:
        """Approve a plan; the coordinator is then made to ask again at once."""
        if not request.plan_hash:
            raise SiteError(
                "an approval is for one plan, and names its hash",
                where=f"study {request.study}",
                remedy="read the plan with consilium-site show; the hash is at the end",
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
        return _message(pb.ApproveReply, approved)

    async def Deny(self, request: pb.DenyRequest, context: object) -> pb.StopReply:
        """Refuse a plan and tell its coordinator; stop one that runs, and tell nobody."""
        reply = await self._end(service.deny, request.study, request.by)
        if reply.state == "denied":
            self._supervisor.renew()
        return reply

    async def Stop(self, request: pb.StopRequest, context: object) -> pb.StopReply:
        """End a study now."""
        return await self._end(service.stop, request.study, request.by)

    async def Pause(self, request: pb.PauseRequest, context: object) -> pb.PauseReply:
        """Take no new work."""
        # The processes first: nothing new begins while the store is being written.
        self._supervisor.pause(True)
        await self._quick.ask(partial(service.pause, by=request.by))
        return pb.PauseReply()

    async def Resume(self, request: pb.ResumeRequest, context: object) -> pb.ResumeReply:
        """Take work again."""
        # The store first: no work is taken before the audit log says that it was resumed.
        await self._quick.ask(partial(service.resume, by=request.by))
        self._supervisor.pause(False)
        return pb.ResumeReply()

    async def Ledger(self, request: pb.LedgerRequest, context: object) -> pb.LedgerReply:
        """What the patients have spent."""
        report = await self._quick.ask(service.ledger)
        studies = [_message(pb.Spending, each) for each in report.studies]
        return _message(pb.LedgerReply, report, studies=studies)

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
        """Leave patients out; running studies continue without them."""
        # Quick: it must not wait for an approval that reads images for minutes.
        task = partial(service.opt_out, patients=list(request.patients), by=request.by)
        return _message(pb.OptOutReply, await self._quick.ask(task))

    async def _end(self, decide: Callable[..., Released], study: str, by: str) -> pb.StopReply:
        supervisor = self._supervisor
        supervisor.requests.silence(study)  # first: the decision may have to wait for the store
        try:
            before = supervisor.stop(study)
            log.info("study.stopping", study=study, by=by)
            left = await self._quick.ask(partial(decide, study=study, by=by))
            after = supervisor.stop(left.study)  # what came in between; the rest meets silence
        finally:
            supervisor.requests.speak(study)
        # Only after the decision: a name that no study has stops nothing.
        log.warning("study.stopped", study=left.study, state=left.state, by=by)
        return _message(
            pb.StopReply,
            left,
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
            for entry in audit_log.entries(self._supervisor.served.state, after)
        ]

    def _own_warnings(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the processes, the worst first."""
        supervisor = self._supervisor
        fault, line = supervisor.worker_fault, supervisor.line
        if fault is not None:
            yield fault.why, fault.remedy
        if line.remedy:
            yield line.why, line.remedy
        joined = self._joined()
        if joined and joined != supervisor.served.card:
            yield (
                f"this site has joined {joined.name} since the daemon started",
                "restart the daemon",
            )
        elif not supervisor.served.card:
            yield (
                "This site has not joined a coordinator. It waits and sends nothing.",
                "run: consilium-site join COORDINATOR.json, then restart the daemon",
            )

    def _joined(self) -> CoordinatorCard | None:
        """The coordinator that the daemon would connect to after a restart."""
        with suppress(ConsiliumError):
            return known_coordinator(self._supervisor.served.state)
        return None

    def _connection(self) -> pb.Connection:
        line = self._supervisor.line
        card = self._supervisor.served.card
        return _message(
            pb.Connection,
            line,
            coordinator=card.name if card else "",
            address=card.address if card else "",
            last_message=self._supervisor.last_message,
            pid=self._supervisor.connection.pid or 0,
        )

    def _worker(self) -> pb.Worker:
        supervisor = self._supervisor
        job, fault = supervisor.requests.working, supervisor.worker_fault
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


def _message(kind: type[M], view: object, **more: Any) -> M:  # noqa: ANN401 - a message's fields
    """A message whose fields are those of a view, by name, but for ``more``."""
    # getattr without a default: a field of the proto that nothing fills is an error, not a zero.
    fields = kind.DESCRIPTOR.fields_by_name.keys() - more.keys()
    return kind(**{name: getattr(view, name) for name in fields}, **more)
