"""The coordinator's public door: ten calls that a node needs, its health, and nothing else.

Everything a site can reach goes through here; the SuperLink behind it is on loopback. How many
connections are held, and how long each may take for what, stands in
:mod:`server.gateway.connection_limiter` and :mod:`server.gateway.tls_listener`. A request is
looked at in this order: its path and method, its size, whose key it bears, whether that site may
come in, the time it was signed at, the signature, whether it was seen before, whether the site
asks no more than its share; and then, body read, whether the node that it speaks for is the
caller's and whatever it touches belongs to that node. Whose key or signature is nobody's is not
told why once its address was refused too often. What is not let through is answered with a code,
logged and counted.

A node's poll is held until there is work for it, so that a site may be idle at no cost and
still begin at once.
"""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from google.protobuf.message import DecodeError, Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.errors import CoordinatorError, LinkError
from common.wire.enrolment import split_address
from server.gateway.authentication import (
    HEADERS,
    STRANGE,
    Admission,
    Admitted,
    Authenticator,
    Denied,
)
from server.gateway.connection_limiter import ConnectionLimiter
from server.gateway.fleet_calls import CALLS, PREFIX, PROTOBUF, FleetCall, FleetCalls
from server.gateway.rates import RateLimiter
from server.gateway.superlink_client import SuperLinkClient
from server.gateway.tls_listener import server
from server.superlink.control_auth import HEADER as GUARD
from server.superlink.wire import trust

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.message_pb2 import PushObjectRequest

if TYPE_CHECKING:
    from server.superlink.notifications import NotificationBoard
    from server.superlink.superlink import SuperLink

NODE_HEADER: Final = "consilium-node"
"""Tells a caller whom we know what its node is called: a killed site has forgotten."""
SMALL: Final = 2**18
"""Bytes of a request that carries no object; the longest lists the objects of a reply."""
OBJECT: Final = 6 * 2**20
"""Bytes of a request that carries one; Flower cuts arrays at 5 MiB."""
BODY_SECONDS: Final = 180.0
"""How long a body may take. A site sends four of 5 MiB at once: a line of 1 Mbit/s is enough."""
OnRefused = Callable[[str, str | None, str], None]
log = structlog.get_logger()


@dataclass(frozen=True)
class GatewaySettings:
    """How a gateway listens and what it takes.

    Attributes:
        listen: ``host:port``; port 0 takes a free one.
        tls: the context to listen with.
        requests_per_second: from one site, on average.
        connections: held at once, of all sites together.
        connections_per_site: held at once, of one site.
        hold_seconds: how long a poll is held where there is no work.
    """

    listen: str
    tls: ssl.SSLContext
    requests_per_second: float = 50.0
    connections: int = 512
    connections_per_site: int = 32
    hold_seconds: float = 20.0


class Gateway:
    """The public door.

    Args:
        admission: who may come in.
        superlink: what is behind it; it need not be there yet.
        settings: how it listens.
        notices: the line to the studies' processes.
        on_refused: called with reason, site where known, and address, of every refusal.
    """

    def __init__(
        self,
        admission: Admission,
        superlink: SuperLink,
        settings: GatewaySettings,
        notices: NotificationBoard,
        on_refused: OnRefused | None = None,
    ) -> None:
        self._superlink = superlink
        self._settings = settings
        self._notices = notices
        self._on_refused = on_refused
        began = datetime.datetime.now(datetime.UTC)
        self._door = Authenticator(admission, began, time.monotonic())
        self._rates = RateLimiter(settings.requests_per_second)
        self._crowd = ConnectionLimiter(
            settings.connections, settings.connections_per_site, self._crowded
        )
        self._behind = SuperLinkClient(
            superlink.address,
            trust(superlink.ca),
            {GUARD: superlink.control_secret, "content-type": PROTOBUF, "accept": PROTOBUF},
        )
        self._passage = FleetCalls(self._behind, notices.complete, settings.hold_seconds)
        self._nodes: dict[int, str] = {}  # which site each node is, or was, as far as was heard
        self.refusals: Counter[str] = Counter()
        """How often each reason was given."""
        self.port = 0
        """Where it listens, once it does."""
        self.listening = asyncio.Event()
        notices.subscribe(self._passage.work_for)
        routes = [Route("/health", _health, methods=["GET"])]
        routes += [
            Route(PREFIX + name, self._endpoint(name, kind), methods=["POST"])
            for name, kind in CALLS.items()
        ]
        handlers: dict[Any, Any] = {404: self._no_such, 405: self._no_such}
        self.app = Starlette(routes=routes, exception_handlers=handlers)
        """The ASGI app, for whoever serves it otherwise than by :meth:`serve`."""
        self.app.router.redirect_slashes = False

    async def serve(self) -> None:
        """Serve until cancelled.

        Raises:
            CoordinatorError: it cannot listen there.
        """
        listener = self._listen()
        serving = server(self.app, self._settings.tls, self._crowd, self._refused)
        task = asyncio.create_task(serving.serve(sockets=[listener]))
        self.listening.set()
        try:
            await asyncio.shield(task)
        finally:
            self.listening.clear()
            serving.should_exit = True
            self._passage.release_all()
            await task
            self._behind.close()

    @property
    def connections(self) -> int:
        """How many are held."""
        return len(self._crowd)

    @property
    def largest_update(self) -> int:
        """Bytes of the largest update that a running study expects; a reply may be no larger."""
        return self._passage.largest_update

    @largest_update.setter
    def largest_update(self, size: int) -> None:
        self._passage.largest_update = size

    def cut(self, node: int) -> None:
        """A node's site may come in no more: answer the poll that is held for it now."""
        self._passage.release(node)

    def _listen(self) -> socket.socket:
        host, port = split_address(self._settings.listen)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=256)
        except OSError as cause:
            raise CoordinatorError(
                "the gateway cannot listen",
                where=self._settings.listen,
                found=cause.strerror,
                remedy="end what listens there, or set another `listen` in coordinator.toml",
            ) from cause
        listener.setblocking(False)
        self.port = int(listener.getsockname()[1])
        return listener

    def _endpoint(self, name: str, kind: type[Message]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            address = request.client.host if request.client else ""
            try:
                call = await self._admit(request, address, name, kind)
                response = await self._passage.take(call)
                response.headers[NODE_HEADER] = str(call.site.node_id)
            except Denied as denied:
                return self._deny(denied, request)
            except ClientDisconnect:
                return Response(status_code=499)
            except LinkError as error:
                log.warning("gateway.superlink-lost", call=name, error=error.details.get("found"))
                return JSONResponse({"code": "unavailable"}, 503)
            return response

        return endpoint

    async def _admit(
        self, request: Request, address: str, name: str, kind: type[Message]
    ) -> FleetCall:
        now = time.monotonic()
        largest = OBJECT if kind is PushObjectRequest else SMALL
        if int(request.headers.get("content-length", "0")) > largest:
            raise Denied(413, "size")
        site, key = self._caller(request, address, now)
        self._nodes[site.node_id] = site.name
        if not self._rates.serves(site.name, now):
            raise Denied(429, "rate", site.name)
        body = await _read(request, largest, site)
        try:
            message: Any = kind.FromString(body)
        except DecodeError:
            raise Denied(400, "malformed", site.name) from None
        if kind is ActivateNodeRequest:
            if message.public_key != key:
                raise Denied(401, "node", site.name)
        else:
            self._demand_own(message, site)
        headers = {name: request.headers[name] for name in HEADERS}
        return FleetCall(name, site, message, body, headers, request)

    def _demand_own(self, message: Any, site: Admitted) -> None:  # noqa: ANN401 - has a node
        """A number that is no other site's was the caller's before the SuperLink began anew."""
        number = message.node.node_id if hasattr(message, "node") else message.node_id
        if number != site.node_id:
            stale = self._nodes.get(number, site.name) == site.name
            raise Denied(401, "node", site.name, **({"stale": True} if stale else {}))

    def _caller(self, request: Request, address: str, now: float) -> tuple[Admitted, bytes]:
        """Who calls. A stranger's rate is not asked first: a site may share the address."""
        wall = datetime.datetime.now(datetime.UTC)
        try:
            site, key = self._door.caller(request.headers, wall, now)
        except Denied as denied:
            if denied.code in STRANGE and not self._rates.hears(address, now):
                raise Denied(429, "rate") from None
            raise
        if request.client is not None:
            self._crowd.known((request.client.host, request.client.port), site.name)
        return site, key

    def _deny(self, denied: Denied, request: Request) -> Response:
        address, path = "", request.url.path
        if request.client is not None:
            address = request.client.host
            if denied.status == 401:
                self._crowd.doubt((address, request.client.port), time.monotonic())
        self._rates.refused(address, time.monotonic())
        if "stale" in denied.more:  # it connects anew after the SuperLink was started again
            log.info("gateway.stale-node", site=denied.site, address=address, path=path[:80])
        else:
            self._refused(denied.code, denied.site, address, path)
        return JSONResponse({"code": denied.code} | denied.more, denied.status)

    def _crowded(self, site: str | None, address: str) -> None:
        self._refused("connections", site, address)

    async def _no_such(self, request: Request, error: Exception) -> Response:
        status = int(getattr(error, "status_code", 404))
        return self._deny(Denied(status, "path" if status == 404 else "method"), request)

    def _refused(self, reason: str, site: str | None, address: str, path: str = "") -> None:
        self.refusals[reason] += 1
        if self._on_refused is not None:
            self._on_refused(reason, site, address)
        if self._rates.worth_a_word(site or address, reason, time.monotonic()):
            path = path[:80]
            log.warning("gateway.refused", reason=reason, site=site, address=address, path=path)


async def _health(request: Request) -> Response:
    """Health; the server adds the date, by which a site measures its clock."""
    return JSONResponse({"status": "ok"})


async def _read(request: Request, largest: int, site: Admitted) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > largest:
                    raise Denied(413, "size", site.name)
    except TimeoutError:
        raise Denied(408, "slow-body", site.name) from None
    return bytes(body)
