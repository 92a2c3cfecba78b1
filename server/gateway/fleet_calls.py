"""The ten calls of a node: what each may touch, and what the gateway learns from its answer.

The SuperLink does not check whose a message or an object is, so the gateway does: the sender of a
reply is the caller's own node, and a node fetches and pushes its own objects only
(:mod:`server.gateway.object_access`). A poll is held until there is something to answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
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
"""Bytes of a reply besides its update: metrics, records, wrapping."""
# 64 MiB: 16 million float32 weights.
DEFAULT_UPDATE: Final = 2**26
"""Bytes of the largest update of a study whose size is not known yet."""
LEAST_UPDATE: Final = 2**20
"""Bytes that every site may send, even when no study runs; no histogram is larger."""
# With the whole answer at once, a caller that reads slowly would keep all of it in our memory.
PIECE: Final = 2**18
"""Bytes of an answer that are handed to the connection at a time."""
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
"""All that a node needs. The SuperLink has more on the same port: starting runs, adding nodes."""


@dataclass(frozen=True)
class FleetCall:
    """A request that was let in.

    Attributes:
        name: of the call.
        site: the caller.
        message: the body, parsed.
        body: the same, as it came.
        headers: those that the SuperLink needs.
        request: the HTTP request.
    """

    name: str
    site: Admitted
    message: Any
    body: bytes
    headers: dict[str, str]
    request: Request


class FleetCalls:
    """Passes calls that were let in on to the SuperLink.

    Args:
        superlink: the client to it.
        complete: called with a request when its reply is complete.
        hold_seconds: how long a poll is held without work.
    """

    def __init__(
        self, superlink: SuperLinkClient, complete: Callable[[str], None], hold_seconds: float
    ) -> None:
        self._superlink = superlink
        self._complete = complete
        self._hold_seconds = hold_seconds
        self._access = ObjectAccess()
        self.polls = LongPoll()
        """The polls that are held."""
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
        """Pass a call on, and give its answer.

        Raises:
            Denied: it touches what is not the caller's.
            LinkError: the SuperLink does not answer.
            ClientDisconnect: the caller has disconnected.
        """
        return await self._rules.get(call.name, self._forward)(call)

    async def _activate(self, call: FleetCall) -> Response:
        response = await self._forward(call)
        if response.status_code == 200:
            # There may be requests that this process was not told of, before it began.
            self._access.begin(call.site.node_id)
            self.polls.work_for([call.site.node_id])
        return response

    async def _forward(self, call: FleetCall) -> Response:
        return _response(await self._ask(call))

    async def _ask(self, call: FleetCall) -> Answer:
        return await self._superlink.post(PREFIX + call.name, call.body, call.headers)

    async def _pull_object(self, call: FleetCall) -> Response:
        wanted = call.message
        if not self._access.may_fetch(call.site.node_id, wanted.object_id, time.monotonic()):
            raise Denied(403, "object", call.site.name)
        key = (wanted.run_id, wanted.object_id)
        return _response(await self._shared.get(key, lambda: self._ask(call)))

    async def _pull_messages(self, call: FleetCall) -> Response:
        """Answer a poll when there is work, or when it was held for long enough."""
        node = call.site.node_id
        spread = random.uniform(0.9, 1.0)  # noqa: S311 - so that not all sites poll at once
        deadline = time.monotonic() + self._hold_seconds * spread
        with self.polls.hold(node) as poll:
            while not poll.over:
                last = time.monotonic() >= deadline
                # The SuperLink is asked only if there may be work: each poll costs it CPU time.
                expected = self.polls.expected(node)
                if expected or last:
                    response = await self._forward(call)
                    work = self._note_handed_out(node, response)
                    self.polls.done(node, 1 if work else expected)
                    if work or last or response.status_code != 200:
                        return response
                if not await poll.until(deadline, call.request.receive):
                    raise ClientDisconnect
        return Response(b"", media_type=PROTOBUF)

    def _note_handed_out(self, node: int, response: Response) -> bool:
        """Remember what was handed out to a node; gives whether there was anything."""
        if response.status_code != 200:
            return False
        pulled = PullMessagesResponse.FromString(bytes(response.body))
        for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            objects = [part.object_id for part in iterate_object_tree(tree)]
            key = message.metadata.message_id
            self._access.handed_out(node, key, objects, time.monotonic())
        return bool(pulled.messages_list)

    async def _push_messages(self, call: FleetCall) -> Response:
        messages, trees = call.message.messages_list, call.message.message_object_trees
        # Flower's nodes send one at a time. With several, the answer's one list of missing objects
        # would not say which reply they belong to.
        if len(messages) != 1 or len(trees) != 1:
            raise Denied(400, "malformed", call.site.name)
        metadata = messages[0].metadata
        if metadata.src_node_id != call.site.node_id:
            raise Denied(403, "sender", call.site.name)
        # A message's id is the hash of its root object, so another tree is another message's.
        if trees[0].object_id != metadata.message_id:
            raise Denied(400, "malformed", call.site.name)
        response = await self._forward(call)
        if response.status_code == 200:
            pushed = PushMessagesResponse.FromString(bytes(response.body))
            if pushed.objects_to_push and not self._access.announced(
                call.site.node_id,
                pushed.session_id,
                metadata.reply_to_message_id,
                pushed.objects_to_push,
                time.monotonic(),
            ):
                raise Denied(429, "replies", call.site.name)
        return response

    async def _push_object(self, call: FleetCall) -> Response:
        node, pushed = call.site.node_id, call.message
        most = self.largest_update + BESIDE
        size = len(pushed.object_content)
        try:
            if not self._access.may_push(node, pushed.session_id, pushed.object_id, size, most):
                raise Denied(403, "object", call.site.name)
        except OverflowError:
            raise Denied(413, "size", call.site.name) from None
        response = await self._forward(call)
        if response.status_code == 200:
            # Flower answers 200 also when it did not store the object, as in a session that ended.
            if not PushObjectResponse.FromString(bytes(response.body)).stored:
                return response
            answered = self._access.pushed_object(
                node, pushed.session_id, pushed.object_id, time.monotonic()
            )
            if answered is not None:
                self._complete(answered)
        return response

    async def _confirm(self, call: FleetCall) -> Response:
        node, message = call.site.node_id, call.message.message_object_id
        if not self._access.may_confirm(node, message):
            raise Denied(403, "object", call.site.name)
        response = await self._forward(call)
        if response.status_code == 200:
            self._access.confirmed(node, message)
        return response


class PacedResponse(Response):
    """An answer in pieces, sent as fast as it is read, so that few bytes of it wait in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        for begin in range(0, len(self.body), PIECE):
            piece = self.body[begin : begin + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _response(answer: Answer) -> Response:
    return PacedResponse(answer.body, answer.status, media_type=answer.kind)
