"""The control service: calls of operators, over a Unix socket or with a certificate.

Any account that may open the socket may call. Over the network, TLS has checked that the
coordinator's authority issued the certificate. Here the caller must also be an admitted operator,
now and for as long as the call lasts (:mod:`server.daemon.rights`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from common.control import coordinator_pb2 as pb
from common.control.coordinator_pb2_grpc import (
    CoordinatorServicer,
    add_CoordinatorServicer_to_server,
)
from common.control.sockets import add_health, listen, new_server
from common.documents import read_json
from common.errors import CoordinatorError, SiteError
from common.settings import checked
from common.wire.enrolment import SiteCard
from server.daemon.operator_service import OperatorService
from server.daemon.operators import operator_of
from server.daemon.rights import Rights
from server.daemon.settings import Home
from server.store.rows import EventRecord, SiteRecord, SiteState

SERVICE: Final = "consilium.coordinator.v1.Coordinator"
LOCAL: Final = "the local operator"
FOLLOW_SECONDS: Final = 0.3
"""Pause before a watcher's next look for events."""
# Well below the largest message of gRPC, and of the control service.
PIECE: Final = 2**20
STOP_SECONDS: Final = 1.0
Context = Any
"""gRPC's, which is untyped."""
log = structlog.get_logger(__name__)


class CoordinatorControl(CoordinatorServicer):
    """Answers operators.

    Args:
        home: the coordinator's.
        service: carries out the calls.
    """

    def __init__(self, home: Home, service: OperatorService) -> None:
        self._home = home
        self._service = service

    async def Admit(self, request: pb.AdmitRequest, context: Context) -> pb.AdmitReply:
        """Let a site in, or in again."""
        who = self.who(context)
        card = _card(request.card)
        mine, site, again = await self._service.admit(card, who, request.patients)
        return pb.AdmitReply(
            site=card.name,
            fingerprint=card.fingerprint,
            coordinator_card=mine.text,
            coordinator_fingerprint=mine.fingerprint,
            again=again,
            agreed=_agreed(site),
        )

    async def Agree(self, request: pb.AgreeRequest, context: Context) -> pb.AgreeReply:
        """Set how many patients a site may declare."""
        who = self.who(context)
        before = await self._service.agree(request.site, request.dataset, request.patients, who)
        return pb.AgreeReply(before=before or 0)

    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.RemoveReply:
        """Keep a site out."""
        await self._service.remove(request.site, self.who(context))
        return pb.RemoveReply()

    async def Sites(self, request: pb.SitesRequest, context: Context) -> pb.SitesReply:
        """All sites."""
        self.who(context)
        rows = [
            _site_row(site, online, self._service.twins(site.name))
            for site, online in await self._service.sites()
        ]
        return pb.SitesReply(sites=rows)

    async def Start(self, request: pb.StartRequest, context: Context) -> pb.StartReply:
        """Start a study."""
        who = self.who(context)
        seed = request.seed if request.HasField("seed") else 0
        study, record = await self._service.start(
            request.document, request.sites, seed, who, initial=request.initial
        )
        offline = [site.name for site, online in await self._service.sites() if not online]
        weighed = await self._service.weighed(study, record.sites)
        return pb.StartReply(
            study=record.name,
            sites=record.sites,
            offline=[name for name in record.sites if name in offline],
            round_timeout=study.aggregation.round_timeout,
            approval_timeout=study.aggregation.approval_timeout,
            seed=record.seed,
            shares=[pb.Share(site=site, **asdict(each)) for site, each in weighed.items()],
            dataset=study.data.dataset,
        )

    async def Studies(self, request: pb.StudiesRequest, context: Context) -> pb.StudiesReply:
        """All studies."""
        self.who(context)
        return pb.StudiesReply(studies=await self._service.studies())

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.Event]:
        """A study's events after a number, until it ends or the caller disconnects."""
        after = request.after
        while True:
            events, more = await self._service.events(request.study, after)
            for event in events:
                after = event.id
                yield _event(event)
            if not events:
                if not (more and request.follow):
                    return
                await asyncio.sleep(FOLLOW_SECONDS)

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopReply:
        """Stop a study."""
        await self._service.stop(request.study, self.who(context))
        return pb.StopReply()

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeReply:
        """Resume a study."""
        await self._service.resume(request.study, self.who(context), amend=tuple(request.amend))
        return pb.ResumeReply()

    async def Result(
        self, request: pb.ResultRequest, context: Context
    ) -> AsyncIterator[pb.ResultPiece]:
        """The files of a result, in pieces."""
        for path in await self._service.result(request.study):
            # Reading large weights must not stop the gateway, which shares this event loop.
            content = await asyncio.to_thread(path.read_bytes)
            for start in range(0, len(content), PIECE):
                yield pb.ResultPiece(path=path.name, content=content[start : start + PIECE])

    def who(self, context: Context) -> str:
        """The caller's name, if they may call now.

        Raises:
            CoordinatorError: the certificate is not one of an admitted operator.
        """
        shown = context.auth_context()
        # Without TLS it is the Unix socket, which only the daemon's account can open.
        if b"ssl" not in shown.get("transport_security_type", ()):
            return LOCAL
        for certificate in shown.get("x509_pem_cert", ()):
            name = operator_of(self._home, certificate)
            if name is not None:
                return name
        log.warning("control.refused", reason="operator", peer=context.peer())
        raise CoordinatorError(
            "this certificate is not one of an admitted operator, or it has expired",
            remedy="ask the person who runs the coordinator for a new one: "
            "consilium-coordinator operator NAME",
        )


async def serve_locally(home: Home, service: OperatorService) -> grpc.aio.Server:
    """Serve on the home's Unix socket.

    Raises:
        LinkError: the socket cannot be made.
    """
    server = await _server(home, service)
    listen(server, home.control_socket)
    await server.start()
    return server


async def serve_operators(home: Home, service: OperatorService) -> grpc.aio.Server | None:
    """Serve operators on other machines, if the settings say so.

    Raises:
        CoordinatorError: the address cannot be used.
    """
    address = home.file.control.listen
    if address is None:
        return None
    server = await _server(home, service)
    pair = (home.server_key.read_bytes(), home.server_certificate.read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], root_certificates=home.ca_certificate.read_bytes(), require_client_auth=True
    )
    try:
        server.add_secure_port(address, credentials)
    except RuntimeError as cause:
        raise CoordinatorError(
            "the control service cannot listen on this address",
            where="coordinator.toml, [control] listen",
            found=address,
            remedy="set another port, or remove the setting",
        ) from cause
    await server.start()
    return server


async def _server(home: Home, service: OperatorService) -> grpc.aio.Server:
    control = CoordinatorControl(home, service)
    server = new_server(Rights(control.who))
    add_CoordinatorServicer_to_server(control, server)
    await add_health(server, SERVICE)
    return server


def _card(text: str) -> SiteCard:
    path = Path("SITE.json")
    try:
        # The command has checked the card, but a caller over the network may send anything.
        document = read_json(text)
    except ValueError as cause:
        raise SiteError("the file is not a SITE.json", where=path, found=cause) from cause
    return checked(document, path, SiteCard, SiteError)


def _site_row(site: SiteRecord, online: bool, twins: str) -> pb.SiteRow:
    return pb.SiteRow(
        name=site.name,
        state="admitted" if site.state is SiteState.ACTIVE else "removed",
        online=online,
        seen=_time(site.last_seen),
        fingerprint=site.card.fingerprint,
        admitted=_time(site.admitted_at),
        agreed=_agreed(site),
        twins=twins,
    )


def _agreed(site: SiteRecord) -> list[pb.Agreement]:
    return [
        pb.Agreement(dataset=name, patients=patients, declared=site.declared.get(name, 0))
        for name, patients in site.agreed.items()
    ]


def _event(event: EventRecord) -> pb.Event:
    return pb.Event(
        id=event.id,
        at=_time(event.at),
        kind=event.kind,
        round=event.round or 0,
        site=event.site or "",
        fields={name: json.dumps(value) for name, value in event.fields.items()},
    )


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")
