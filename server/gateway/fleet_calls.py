"""What each of a node's ten calls may touch, and what is learnt from its answer.

The SuperLink does not ask whose a message or an object is, so it is asked here: a reply bears
its own node as its sender, objects are fetched by whom they were handed to and brought by who
announced them, and a poll is held until there is something to answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.gateway.authentication import Admitted, Denied
from server.gateway.long_poll import LongPoll
from server.gateway.object_access import ObjectAccess
from server.gateway.shared_objects import SharedObjects
from server.gateway.superlink_client import Answer, SuperLinkClient

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

BESIDE: Final = 2**20
"""Bytes that a reply may take beside its update: its metrics, its record, its wrapping."""
DEFAULT_UPDATE: Final = 2**26
"""Bytes of the largest update while it is not known what the studies under way expect."""
LEAST_UPDATE: Final = 2**20
"""The same where little is expected, and where there is no study; no histogram is larger."""
PIECE: Final = 2**18
"""Bytes of an answer that are handed over to be sent at a time."""
PROTOBUF: Final = "application/protobuf"
PREFIX: Final = "/v1/fleet/"
CALLS: Final[dict[str, type[Message]]] = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    "push-messages": PushMessagesRequest,
    "get-run": GetRunRequest,
    "get-fab": GetFabRequest,
    "push-object": PushObjectRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
}
"""All that a node needs."""


@dataclass(frozen=True)
class FleetCall:
    """A request that was let in.

    Attributes:
        name: of the call.
        site: who calls.
        message: what it says.
        body: the same, as it came.
        headers: what the SuperLink must see of its headers.
        request: the connection.
    """

    name: str
    site: Admitted
    message: Any
    body: bytes
    headers: dict[str, str]
    request: Request


class FleetCalls:
    """Passes on calls that were let in.

    Args:
        behind: the SuperLink.
        complete: called with the request that a reply has answered whole.
        hold_seconds: how long a poll is held where there is no work.
    """

    def __init__(
        self, behind: SuperLinkClient, complete: Callable[[str], None], hold_seconds: float
    ) -> None:
        self._behind = behind
        self._complete = complete
        self._hold_seconds = hold_seconds
        self._custody = ObjectAccess()
        self._waiting = LongPoll()
        self._shared = SharedObjects()
        self._rules: dict[str, Callable[[FleetCall], Awaitable[Response]]] = {
            "activate-node": self._activate,
            "pull-messages": self._pull_messages,
            "push-messages": self._push_messages,
            "pull-object": self._pull_object,
            "push-object": self._push_object,
            "confirm-message-received": self._confirm,
        }
        self.largest_update = DEFAULT_UPDATE
        """Bytes of the largest update that a running study expects."""

    async def take(self, call: FleetCall) -> Response:
        """Pass on a call, and give its answer.

        Raises:
            Denied: it touches what is not its node's.
            LinkError: the SuperLink does not answer.
            ClientDisconnect: the caller has gone.
        """
        return await self._rules.get(call.name, self._forward)(call)

    def work_for(self, nodes: Iterable[int]) -> None:
        """There is a further request for each of these nodes."""
        self._waiting.work_for(nodes)

    def release(self, node: int) -> None:
        """Answer the poll of a node now."""
        self._waiting.release(node)

    def release_all(self) -> None:
        """Answer every poll now."""
        self._waiting.release_all()

    async def _activate(self, call: FleetCall) -> Response:
        response = await self._forward(call)
        if response.status_code == 200:
            self._custody.begin(call.site.node_id)
            self._waiting.work_for([call.site.node_id])
        return response

    async def _forward(self, call: FleetCall) -> Response:
        return _response(await self._ask(call))

    async def _ask(self, call: FleetCall) -> Answer:
        return await self._behind.post(PREFIX + call.name, call.body, call.headers)

    async def _pull_object(self, call: FleetCall) -> Response:
        wanted = call.message
        if not self._custody.may_fetch(call.site.node_id, wanted.object_id, time.monotonic()):
            raise Denied(403, "object", call.site.name)
        key = (wanted.run_id, wanted.object_id)
        return _response(await self._shared.get(key, lambda: self._ask(call)))

    async def _pull_messages(self, call: FleetCall) -> Response:
        """Answer a poll when there is work, or when it has been held for long enough."""
        node = call.site.node_id
        spread = random.uniform(0.9, 1.0)  # noqa: S311 - so that not all sites poll at once
        deadline = time.monotonic() + self._hold_seconds * spread
        with self._waiting.hold(node) as hold:
            while not hold.over:
                last = time.monotonic() >= deadline
                expected = self._waiting.expected(node)
                if expected or last:
                    response = await self._forward(call)
                    work = self._take_over(node, response)
                    self._waiting.done(node, 1 if work else expected)
                    if work or last or response.status_code != 200:
                        return response
                if not await hold.until(deadline, call.request.receive):
                    raise ClientDisconnect
        return Response(b"", media_type=PROTOBUF)

    def _take_over(self, node: int, response: Response) -> bool:
        """Note what a node was handed; tells whether that was anything."""
        if response.status_code != 200:
            return False
        pulled = PullMessagesResponse.FromString(bytes(response.body))
        for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            objects = [part.object_id for part in iterate_object_tree(tree)]
            key = message.metadata.message_id
            self._custody.handed_out(node, key, objects, time.monotonic())
        return bool(pulled.messages_list)

    async def _push_messages(self, call: FleetCall) -> Response:
        messages, trees = call.message.messages_list, call.message.message_object_trees
        if len(messages) != 1 or len(trees) != 1:
            raise Denied(400, "malformed", call.site.name)
        told = messages[0].metadata
        if told.src_node_id != call.site.node_id:
            raise Denied(403, "sender", call.site.name)
        if trees[0].object_id != told.message_id:
            raise Denied(400, "malformed", call.site.name)
        response = await self._forward(call)
        if response.status_code == 200:
            pushed = PushMessagesResponse.FromString(bytes(response.body))
            if pushed.objects_to_push and not self._custody.announced(
                call.site.node_id,
                pushed.session_id,
                told.reply_to_message_id,
                pushed.objects_to_push,
                time.monotonic(),
            ):
                raise Denied(429, "replies", call.site.name)
        return response

    async def _push_object(self, call: FleetCall) -> Response:
        node, told = call.site.node_id, call.message
        most = self.largest_update + BESIDE
        size = len(told.object_content)
        try:
            if not self._custody.may_bring(node, told.session_id, told.object_id, size, most):
                raise Denied(403, "object", call.site.name)
        except OverflowError:
            raise Denied(413, "size", call.site.name) from None
        response = await self._forward(call)
        if response.status_code == 200:
            if not PushObjectResponse.FromString(bytes(response.body)).stored:
                return response
            answered = self._custody.brought(
                node, told.session_id, told.object_id, time.monotonic()
            )
            if answered is not None:
                self._complete(answered)
        return response

    async def _confirm(self, call: FleetCall) -> Response:
        node, message = call.site.node_id, call.message.message_object_id
        if not self._custody.may_confirm(node, message):
            raise Denied(403, "object", call.site.name)
        response = await self._forward(call)
        if response.status_code == 200:
            self._custody.confirmed(node, message)
        return response


class Paced(Response):
    """An answer that is sent as fast as it is read, so that few bytes of it wait to be sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        for begin in range(0, len(self.body), PIECE):
            piece = self.body[begin : begin + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _response(answer: Answer) -> Response:
    return Paced(answer.body, answer.status, media_type=answer.kind)
