"""A site's connection to the coordinator: Flower's fleet protocol, as a client that may fail.

Only outward connections, over TLS to the one authority that ``COORDINATOR.json`` names, signed
with the site's node key. Nothing is tried twice here: Flower loses requests and refuses repeated
ones, so that after any failure the caller has to :meth:`Fleet.connect` again, which makes the
coordinator ask again.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import re
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Final

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from client.daemon import bounded
from client.daemon.line_errors import (
    ForeignCode,
    Offline,
    Skewed,
    Unreadable,
    offline,
    translated,
)
from common.errors import LinkError
from common.files import sha256
from common.process.logs import place
from common.wire.bundle import foreign
from common.wire.enrolment import INSTANCE_HEADER, NODE_HEADER, TWINS_HEADER
from common.wire.flower import Message, message_from_objects
from common.wire.transfer import Gone, deliver, fetch, pool

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app.message import remove_content_from_message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
)
from flwr.common.serde import message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

if TYPE_CHECKING:
    from flwr.supercore.protobuf.client import ProtobufRequestContext

    from common.wire.enrolment import CoordinatorCard

HEARTBEAT_SECONDS: Final = 30.0
HOLD_SECONDS: Final = 20.0
"""How long a gateway holds a poll at most."""
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0, read=HOLD_SECONDS + 25.0)
KEEP_ALIVE_SECONDS: Final = 60.0
"""Shorter than the gateway's, so that no request meets a connection that is being closed."""
SMALL: Final = 2**20
"""Bytes of an answer that brings no object; the longest lists a request's, or is a bundle."""
LARGEST_MESSAGE: Final = 2**29
"""Bytes of all objects of a message: 134 million weights."""
PATIENCE_SECONDS: Final = 20.0
"""How long to wait for parts of a request that are still on their way to the coordinator."""
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_UNAVAILABLE: Final = (502, 503, 504)
_NOW: Final = struct.pack("ii", 1, 0)
log = structlog.get_logger()


class _Client(FleetHttpClient):
    """Flower's client over our own connection, whose answers all end."""

    def __init__(
        self, card: CoordinatorCard, key: ec.EllipticCurvePrivateKey, instance: str
    ) -> None:
        self.twins = ""
        super().__init__(
            f"https://{card.address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self._client.close()
        self._client = bounded.client(
            _trust(card.ca),
            TIMEOUT,
            httpx.Limits(max_connections=16, keepalive_expiry=KEEP_ALIVE_SECONDS),
            [
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                # Closing drops what is not sent yet, however this process ends: after a stop, the
                # kernel must not go on sending a reply that a killed process left in its buffer.
                (socket.SOL_SOCKET, socket.SO_LINGER, _NOW),
            ],
        )

        self._client.headers[INSTANCE_HEADER] = instance

    def _send(self, context: ProtobufRequestContext, *, stream: bool = False) -> httpx.Response:
        """Send a request; only the answer that brings an object may be large."""
        answer = super()._send(context, stream=stream)
        twins = answer.headers.get(TWINS_HEADER, "")
        self.twins = twins if _MOMENT.fullmatch(twins) else ""
        if not isinstance(context.message, PullObjectRequest) and len(answer.content) > SMALL:
            raise httpx.DecodingError("an answer that is too long", request=answer.request)
        return answer

    def ahead(self) -> float:
        """Seconds by which our clock is ahead of the coordinator's, to about one."""
        before = datetime.datetime.now(datetime.UTC)
        answer = self._client.get(f"{self._base_url}/health")
        after = datetime.datetime.now(datetime.UTC)
        answer.raise_for_status()
        theirs = email.utils.parsedate_to_datetime(answer.headers["date"])
        middle = before + (after - before) / 2
        return (middle - theirs).total_seconds() - 0.5  # the header leaves out the fraction


class Fleet:
    """The connection of one site.

    One thread may pull while another pushes, and a third connects again to be asked again;
    heartbeats have a thread of their own.

    Args:
        card: whom to connect to.
        node_key: the site's own key.
        instance: this process, by :func:`new_instance`; by default this object is one of its own.
    """

    def __init__(
        self, card: CoordinatorCard, node_key: ec.EllipticCurvePrivateKey, instance: str = ""
    ) -> None:
        self._card = card
        self._public = public_key_to_bytes(node_key.public_key())
        self._client = _Client(card, node_key, instance or new_instance())
        self._pool = pool("fleet")
        self._node = 0
        self._checked: set[int] = set()
        self._closing = threading.Event()
        self._heart: threading.Thread | None = None
        self._lost: LinkError | None = None
        self._ahead = 0.0

    @property
    def node_id(self) -> int:
        """The coordinator's number for this node; 0 until connected."""
        return self._node

    @property
    def twins(self) -> str:
        """Since when another machine is connected as this site too; empty where none is."""
        return self._client.twins

    def connect(self) -> None:
        """Connect, or connect again: the coordinator then repeats each request that it waits for.

        Raises:
            Offline: the coordinator does not answer.
            Skewed: this machine's clock is wrong.
            NotValidNow: by this machine's clock, the certificate there is not valid now.
            NotAdmitted: this site is not let in.
            Untrusted: another machine answers there.
        """
        with self._reading():
            self._ahead = ahead = self._client.ahead()
        if not -TIMESTAMP_TOLERANCE <= ahead <= SYSTEM_TIME_TOLERANCE:
            raise Skewed(ahead)
        if self._node:
            self._deactivate(self._node)
        with self._reading():
            self._node = self._activate()
        self._checked.clear()
        self._lost = None
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()

    def _activate(self) -> int:
        """Activate; a node that a killed process left active is deactivated first."""
        request = ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        try:
            return int(self._client.ActivateNode(request).node_id)
        except httpx.HTTPStatusError as error:
            # A node that is active already cannot be activated: the gateway's answer names it.
            node = error.response.headers.get(NODE_HEADER, "")
            if error.response.status_code in (401, *_UNAVAILABLE) or not node.isdecimal():
                raise
            self._deactivate(int(node))
        return int(self._client.ActivateNode(request).node_id)

    def _deactivate(self, node: int) -> None:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=node))

    def pull(self) -> Message | None:
        """The next request, whole; None where there is none after about 20 s.

        Raises:
            Offline: the line broke; a request may be lost, so connect again.
            ForeignCode: the request's run brings code; it is not even fetched.
            Unreadable: what came is no message, or one that is larger than any.
            LinkError: as :meth:`connect`.
        """
        self._raise_lost()
        with self._reading():
            pulled = self._client.PullMessages(PullMessagesRequest(node=self._me))
            if not pulled.messages_list:
                return None
            header, tree = pulled.messages_list[0], pulled.message_object_trees[0]
            # Before the request is fetched: nothing of a run with foreign code is ever read.
            self._check_run(header.metadata.run_id)
            parts = [part.object_id for part in iterate_object_tree(tree)]
            return self._fetch(header.metadata.run_id, header.metadata.message_id, parts)

    def _fetch(self, run_id: int, message_id: str, parts: Iterable[str]) -> Message:
        def pull(object_id: str) -> bytes | None:
            answer = self._client.PullObject(
                PullObjectRequest(node=self._me, run_id=run_id, object_id=object_id)
            )
            if not answer.object_found:
                raise Gone
            if not answer.object_available:
                return None
            sizes.append(len(answer.object_content))
            # While it comes: a message that does not fit into memory must not be there first.
            if sum(sizes) > LARGEST_MESSAGE:
                raise Unreadable(message_id, sum(sizes))
            return answer.object_content

        sizes: list[int] = []
        try:
            contents = fetch(self._pool, parts, pull, PATIENCE_SECONDS)
        except Unreadable:
            log.error("fleet.refused", reason="size", run=run_id)
            raise
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._me, run_id=run_id, message_object_id=message_id
            )
        )
        size = sum(map(len, contents.values()))
        try:
            return message_from_objects(message_id, contents)
        except ValueError as error:
            log.error("fleet.refused", reason="unreadable", run=run_id, found=str(error))
            raise Unreadable(message_id, size) from error

    def push(self, reply: Message) -> bool:
        """Send a reply; False where the coordinator no longer waits for it.

        Raises:
            Offline: the line broke; the coordinator asks again once connected.
            LinkError: as :meth:`connect`.
        """
        self._raise_lost()
        with translated(self._card.address), no_object_id_recompute():
            # As Flower does: a message goes under the id of its own object.
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            pushed = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._me,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                    # Not the real time, which would tell how many patients there are.
                    clientapp_runtime_list=[0.0],
                )
            )
            missing = set(pushed.objects_to_push)
            if not missing:
                return False
            run_id, session = reply.metadata.run_id, pushed.session_id

            def push(object_id: str, content: bytes) -> None:
                answer = self._client.PushObject(
                    PushObjectRequest(
                        node=self._me,
                        run_id=run_id,
                        object_id=object_id,
                        object_content=content,
                        session_id=session,
                    )
                )
                if not answer.stored:
                    raise Gone

            parts = ((key, one.deflate) for key, one in objects.items() if key in missing)
            deliver(self._pool, parts, push)
        return True

    def close(self) -> None:
        """Disconnect; the coordinator sees that the site is gone."""
        self._closing.set()
        if self._node:
            self._deactivate(self._node)
            self._node = 0
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    @property
    def _me(self) -> Node:
        return Node(node_id=self._node)

    def _check_run(self, run_id: int) -> None:
        """Check once what a run brings with it."""
        if run_id in self._checked:
            return
        run = self._client.GetRun(GetRunRequest(node=self._me, run_id=run_id)).run
        request = GetFabRequest(node=self._me, hash_str=run.fab_hash, run_id=run_id)
        content = self._client.GetFab(request).fab.content
        found = foreign(content) if sha256(content) == run.fab_hash else "another bundle"
        if found is not None:
            log.error("fleet.refused", reason="foreign-code", run=run_id)
            raise ForeignCode(
                "a run brings something that is not installed here, and was refused",
                where=f"run {run_id}",
                found=found,
                wanted="a bundle with pyproject.toml alone, naming Consilium's own apps",
                remedy="ask the coordinator who starts such runs; this site runs no code from them",
            )
        self._checked.add(run_id)

    def _beat(self) -> None:
        """Tell the coordinator at regular times that this site is online."""
        while not self._closing.wait(HEARTBEAT_SECONDS):
            if not self._node or self._lost is not None:
                continue
            try:
                with self._reading():
                    self._client.SendNodeHeartbeat(
                        SendNodeHeartbeatRequest(
                            node=self._me, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
                        )
                    )
            except LinkError as error:
                # Kept, not raised: the thread that pulls or pushes raises it, and reconnects.
                if not self._closing.is_set():
                    self._lost = error

    def _raise_lost(self) -> None:
        """Raise at the next call what a heartbeat found."""
        if self._lost is not None:
            raise self._lost
        if not self._node:
            raise Offline("this site is not connected", remedy="connect first")

    @contextlib.contextmanager
    def _reading(self) -> Generator[None]:
        """Read an answer, which may hold anything, without ending this process."""
        try:
            with translated(self._card.address, self._ahead):
                yield
        except LinkError:
            raise
        except Exception as cause:  # whatever it is, it came from there
            log.error("fleet.unreadable", error=type(cause).__name__, at=place(cause))
            raise offline(self._card.address, "an answer that cannot be read") from cause


def new_instance() -> str:
    """A random number for a process, by which the coordinator tells two machines of a site apart.

    It follows from nothing, and tells no more than that a process started.
    """
    return secrets.token_hex(16)


def _trust(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    return context
