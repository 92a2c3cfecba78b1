"""The coordinator's public gateway: ten calls that a node needs, its health, and nothing else.

Everything that a site can reach goes through here; the SuperLink is on loopback, because its port
also starts runs and adds nodes. :mod:`server.gateway.connection_limiter` and
:mod:`server.gateway.tls_listener` limit connections and their times. A request is checked in this
order, cheap checks first, and nothing of a body is read for a caller that is not a site's:

1. path and method;
2. size, from its header;
3. the key, and whether its site may connect;
4. the time of the signature, the signature, and whether it was used before;
5. the site's rate of requests;
6. the body: its size, its form, and whether its node is the caller's;
7. whether two machines call as this site (:mod:`server.gateway.instances`): then it gets no work;
8. whether the messages and objects that it names belong to that node.

A refusal is answered with a code, logged and counted. An address that was refused too often for
its key or signature is no longer told why.

A node's poll is held until there is work for it: a site that waits costs nothing, and still begins
at once.
"""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from google.protobuf.message import DecodeError, Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.errors import CoordinatorError, LinkError
from common.wire.enrolment import INSTANCE_HEADER, NODE_HEADER, TWINS_HEADER, split_address
from server.gateway.authentication import (
    HEADERS,
    NOT_AUTHENTICATED,
    Admission,
    Admitted,
    Authenticator,
    Denied,
)
from server.gateway.connection_limiter import ConnectionLimiter
from server.gateway.fleet_calls import (
    CALLS,
    DEFAULT_UPDATE,
    LEAST_UPDATE,
    PREFIX,
    PROTOBUF,
    FleetCall,
    FleetCalls,
)
from server.gateway.instances import Instances
from server.gateway.rates import RateLimiter
from server.gateway.superlink_client import SuperLinkClient
from server.gateway.tls_listener import new_server
from server.superlink.control_auth import HEADER as CONTROL_AUTH_HEADER
from server.superlink.wire import trust

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.message_pb2 import PushObjectRequest

if TYPE_CHECKING:
    from server.superlink.notifications import NotificationBoard
    from server.superlink.superlink import SuperLink

# After a kill -9, Flower refuses to activate a node again for up to 60 s; a site that knows its
# node's number sends a heartbeat and goes on at once.
SMALL: Final = 2**18
"""Bytes of a request without an object; the longest one lists the objects of a reply."""
OBJECT: Final = 6 * 2**20
"""Bytes of a request with an object; Flower cuts arrays at 5 MiB."""
# A site sends four objects of 5 MiB at once: 20 MiB in 180 s is 1 Mbit/s.
BODY_SECONDS: Final = 180.0
"""How long a body may take."""
OnRefused = Callable[[str, str | None, str], None]
log = structlog.get_logger()


@dataclass(frozen=True)
class GatewaySettings:
    """How a gateway listens, and its limits.

    Attributes:
        listen: ``host:port``; port 0 takes a free one.
        tls: the context to listen with.
        requests_per_second: from one site, on average.
        connections: held at once, of all sites together.
        connections_per_site: held at once, of one site.
        hold_seconds: how long a poll is held without work.
    """

    listen: str
    tls: ssl.SSLContext
    requests_per_second: float = 50.0
    connections: int = 512
    connections_per_site: int = 32
    # Shorter than the 30 s for which a node waits for an answer.
    hold_seconds: float = 20.0


class Gateway:
    """The public gateway.

    Args:
        admission: the sites that may connect.
        superlink: to pass calls on to; it need not run yet.
        settings: how it listens.
        notices: the connection to the studies' processes.
        on_refused: called for every refusal with reason, site (if known) and address.
    """

    def __init__(
        self,
        admission: Admission,
        superlink: SuperLink,
        settings: GatewaySettings,
        notices: NotificationBoard,
        on_refused: OnRefused | None = None,
    ) -> None:
        self._settings = settings
        self._on_refused = on_refused
        began = datetime.datetime.now(datetime.UTC)
        self._authenticator = Authenticator(admission, began, time.monotonic())
        self._rates = RateLimiter(settings.requests_per_second)
        self._limiter = ConnectionLimiter(
            settings.connections, settings.connections_per_site, self._connection_ended
        )
        self._client = SuperLinkClient(
            superlink.address,
            trust(superlink.ca),
            {
                CONTROL_AUTH_HEADER: superlink.control_secret,
                "content-type": PROTOBUF,
                "accept": PROTOBUF,
            },
        )
        self._calls = FleetCalls(self._client, notices.complete, settings.hold_seconds)
        self._instances = Instances()
        self._nodes: dict[int, str] = {}  # the site of each node number that was ever used
        self.refusals: Counter[str] = Counter()
        """Refusals by reason."""
        self.port = 0
        """The port that it listens on, once it does."""
        self.listening = asyncio.Event()
        notices.subscribe(self._calls.polls.work_for)
        routes = [Route("/health", _health, methods=["GET"])]
        routes += [
            Route(PREFIX + name, self._endpoint(name, kind), methods=["POST"])
            for name, kind in CALLS.items()
        ]
        handlers: dict[Any, Any] = {404: self._unknown_route, 405: self._unknown_route}
        self.app = Starlette(routes=routes, exception_handlers=handlers)
        """The ASGI app, so that middleware can be added."""
        self.app.router.redirect_slashes = False  # a redirect would answer a path that is unknown

    async def serve(self) -> None:
        """Serve until cancelled.

        Raises:
            CoordinatorError: it cannot listen there.
        """
        listener = self._listen()
        serving = new_server(self.app, self._settings.tls, self._limiter, self._refused)
        task = asyncio.create_task(serving.serve(sockets=[listener]))
        self.listening.set()
        try:
            # Cancelling this must not cancel the server: it first closes its connections.
            await asyncio.shield(task)
        finally:
            self.listening.clear()
            serving.should_exit = True
            self._calls.polls.release_all()
            await task
            self._client.close()

    @property
    def connections(self) -> int:
        """Connections held now."""
        return len(self._limiter)

    def expect_updates(self, sizes: Iterable[int | None]) -> None:
        """Accept updates as large as the running studies need, and no larger.

        Args:
            sizes: bytes of each running study's update; None where it is not known yet.
        """
        known = [DEFAULT_UPDATE if size is None else size for size in sizes]
        self._calls.largest_update = max([LEAST_UPDATE, *known])

    def cut(self, node: int) -> None:
        """The site of a node may no longer connect: answer its held poll now."""
        self._calls.polls.release(node)

    def _listen(self) -> socket.socket:
        host, port = split_address(self._settings.listen)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            # "[::]" is every address, as it is for gRPC and most servers, and not IPv6 alone.
            both = host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(
                (host, port), family=family, backlog=256, dualstack_ipv6=both
            )
        except OSError as cause:
            raise CoordinatorError(
                "the gateway cannot listen",
                where=self._settings.listen,
                found=cause.strerror,
                remedy="stop the program that uses this port, or set another `listen` in "
                "coordinator.toml",
            ) from cause
        listener.setblocking(False)
        self.port = int(listener.getsockname()[1])
        return listener

    def _endpoint(self, name: str, kind: type[Message]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            address = request.client.host if request.client else ""
            try:
                call = await self._admit(request, address, name, kind)
                twins = self._note_instance(call)
                if twins and name == "pull-messages":
                    # Not handed out: each machine would charge it to its own copy of the ledger.
                    self._refused("twins", call.site.name, address)
                    response = Response(b"", media_type=PROTOBUF)
                else:
                    response = await self._calls.take(call)
                response.headers[NODE_HEADER] = str(call.site.node_id)
                if twins:
                    response.headers[TWINS_HEADER] = twins
            except Denied as denied:
                return self._deny(denied, request)
            except ClientDisconnect:
                return Response(status_code=499)
            except LinkError as error:
                log.warning("gateway.superlink-lost", call=name, error=error.details.get("found"))
                return JSONResponse({"code": "unavailable"}, 503)
            return response

        return endpoint

    def twins(self, site: str) -> str:
        """Since when two machines are connected as a site; empty where one is."""
        return self._instances.twins(site, time.monotonic())

    def _note_instance(self, call: FleetCall) -> str:
        instance = call.request.headers.get(INSTANCE_HEADER, "")
        wall = datetime.datetime.now(datetime.UTC)
        return self._instances.heard(call.site.name, instance, time.monotonic(), wall)

    async def _admit(
        self, request: Request, address: str, name: str, kind: type[Message]
    ) -> FleetCall:
        now = time.monotonic()
        largest = OBJECT if kind is PushObjectRequest else SMALL
        # First, so that a stranger cannot make us read a large body.
        if int(request.headers.get("content-length", "0")) > largest:
            raise Denied(413, "size")
        site, key = self._caller(request, address, now)
        self._nodes[site.node_id] = site.name
        if not self._rates.allows(site.name, now):
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
        """Refuse a body of another node.

        A number that no other site had is the caller's own from before a restart of the SuperLink.
        """
        number = message.node.node_id if hasattr(message, "node") else message.node_id
        if number != site.node_id:
            stale = self._nodes.get(number, site.name) == site.name
            raise Denied(401, "node", site.name, **({"stale": True} if stale else {}))

    def _caller(self, request: Request, address: str, now: float) -> tuple[Admitted, bytes]:
        """The caller. A stranger's rate is not checked first: a site may share its address."""
        wall = datetime.datetime.now(datetime.UTC)
        try:
            site, key = self._authenticator.caller(request.headers, wall, now)
        except Denied as denied:
            if denied.code in NOT_AUTHENTICATED and not self._rates.explains_to(address, now):
                raise Denied(429, "rate") from None
            raise
        if request.client is not None:
            self._limiter.belongs_to((request.client.host, request.client.port), site.name)
        return site, key

    def _deny(self, denied: Denied, request: Request) -> Response:
        address, path = "", request.url.path
        if request.client is not None:
            address = request.client.host
            if denied.status == 401:
                self._limiter.became_stranger((address, request.client.port), time.monotonic())
        self._rates.refused(address, time.monotonic())
        if "stale" in denied.more:  # normal: the SuperLink has restarted
            log.info("gateway.stale-node", site=denied.site, address=address, path=path[:80])
        else:
            self._refused(denied.code, denied.site, address, path)
        return JSONResponse({"code": denied.code} | denied.more, denied.status)

    def _connection_ended(self, site: str | None, address: str) -> None:
        self._refused("connections", site, address)

    async def _unknown_route(self, request: Request, error: Exception) -> Response:
        status = int(getattr(error, "status_code", 404))
        return self._deny(Denied(status, "path" if status == 404 else "method"), request)

    def _refused(self, reason: str, site: str | None, address: str, path: str = "") -> None:
        self.refusals[reason] += 1
        if self._on_refused is not None:
            self._on_refused(reason, site, address)
        if self._rates.may_log(site or address, reason, time.monotonic()):
            path = path[:80]
            log.warning("gateway.refused", reason=reason, site=site, address=address, path=path)


async def _health(request: Request) -> Response:
    """Health. The server adds the Date header, by which a site checks its own clock."""
    return JSONResponse({"status": "ok"})


async def _read(request: Request, largest: int, site: Admitted) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > largest:  # a chunked body does not say its length before
                    raise Denied(413, "size", site.name)
    except TimeoutError:
        raise Denied(408, "slow-body", site.name) from None
    return bytes(body)
