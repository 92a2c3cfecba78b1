"""Flower's grid over the SuperLink, made for a daemon: it waits for notifications, never forever.

Each pull takes one reply, so that it can be folded and forgotten; the arrays of a round are
held once for any number of sites. A reply is pulled when a notification says that it is
complete. Without one it is pulled every few seconds, and only from connected sites: Flower
answers a pull for an absent site by destroying the request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from common.errors import LinkError
from common.wire.flower import Error, ErrorCode, Message, RecordDict, identify, message_from_objects
from common.wire.transfer import Gone, NotYet, deliver, fetch, pool
from server.superlink.wire import client, translated

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import Metadata
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import message_to_proto, run_from_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

if TYPE_CHECKING:
    from flwr.proto.message_pb2 import Message as MessageProto
    from flwr.proto.message_pb2 import ObjectTree

    from server.superlink.notifications import NotificationLine

POLL_SECONDS: Final = 5.0
"""How often to look for a reply without a notification, should one have been lost."""
BARE_POLL_SECONDS: Final = 0.25
"""The same where nothing sends notifications."""
PART_SECONDS: Final = 1.0
"""How long to wait for the rest of a reply that has begun to arrive, before others are pulled."""
HEARTBEAT_SECONDS: Final = 20.0
"""Flower fails a run after 60 s without a heartbeat: two may be lost."""
log = structlog.get_logger()


def open_task(
    address: str,
    ca: str,
    control_secret: str,
    token: str,
    notifications: NotificationLine | None,
) -> FleetGrid:
    """Begin a task that was taken; see :meth:`server.superlink.superlink.SuperLink.open_grid`."""
    interceptor = RuntimeTokenHttpInterceptor(token=token)
    runtime = client(RuntimeHttpClient, address, ca, control_secret, [interceptor])
    with translated("to begin a run"):
        begun = runtime.PullTaskInput(PullTaskInputRequest())
    identify(begun.run.run_id, begun.context.node_id, begun.task_id)
    grid = FleetGrid(runtime, token, notifications)
    grid.set_run(run_from_proto(begun.run))
    return grid


class FleetGrid(HttpGrid):
    """How a study reaches its sites. Every error of the connection is a ``LinkError``.

    Args:
        runtime: the SuperLink, as the run's task.
        token: of the task.
        notifications: how to hear of replies, if at all.
    """

    def __init__(
        self, runtime: RuntimeHttpClient, token: str, notifications: NotificationLine | None
    ) -> None:
        super().__init__(token=token)
        self._client = runtime
        self._notifications = notifications
        self._pool = pool("grid")
        self._asked: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._partial: dict[str, tuple[MessageProto, ObjectTree]] = {}
        self._online: tuple[float, frozenset[int]] = (0.0, frozenset())
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The sites that are connected.

        Raises:
            LinkError: the SuperLink cannot be reached, or has ended the run.
        """
        with translated("to list nodes"):
            nodes = self._runtime_client.GetNodes(GetNodesRequest()).nodes
        self._online = (time.monotonic(), frozenset(node.node_id for node in nodes))
        return list(nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push requests; those that share an array share it here and at the SuperLink.

        Gives each one's identifier, an empty one for what Flower refused.

        Raises:
            LinkError: the SuperLink cannot be reached, or has ended the run.
        """
        with translated("to push messages"):
            return super().push_messages(list(messages))

    def _try_push_messages(self, run_id: int, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        headers, trees = [], []
        objects: dict[str, InflatableObject] = {}
        for message in messages:
            headers.append(message_to_proto(remove_content_from_message(message)))
            objects.update(get_all_nested_objects(message))
            trees.append(get_object_tree(message))
        # Before pushing: a site may answer before PushMessages returns.
        self._expect({one.metadata.message_id: one.metadata.dst_node_id for one in messages})
        pushed = self._runtime_client.PushMessages(
            PushAppMessagesRequest(messages_list=headers, message_object_trees=trees)
        )
        missing = set(pushed.objects_to_push)
        parts = ((key, one.deflate) for key, one in objects.items() if key in missing)
        deliver(self._pool, parts, self._push_object(run_id, pushed.session_id))
        if self._notifications is not None:
            self._notifications.pushed(one.metadata.dst_node_id for one in messages)
        return list(pushed.message_ids)

    def _push_object(self, run_id: int, session: str) -> Callable[[str, bytes], None]:
        def push(object_id: str, content: bytes) -> None:
            answer = self._runtime_client.PushObject(
                PushObjectRequest(
                    node=self.node,
                    run_id=run_id,
                    object_id=object_id,
                    object_content=content,
                    session_id=session,
                )
            )
            if not answer.stored:
                raise LinkError("the SuperLink did not keep a part of a request")

        return push

    def _expect(self, requests: dict[str, int]) -> None:
        self._asked.update(requests)
        self._due.update(dict.fromkeys(requests, time.monotonic() + self._period))
        if self._notifications is not None:
            self._notifications.expect(requests)

    @property
    def _period(self) -> float:
        return BARE_POLL_SECONDS if self._notifications is None else POLL_SECONDS

    def wait(self, timeout: float) -> None:
        """Block until a reply is complete, or it is time to look, but not beyond ``timeout``."""
        limit = min(timeout, self._period)
        if self._notifications is None:
            self._closing.wait(limit)
        else:
            self._notifications.wait(limit)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived to these requests; looking for one that has not costs nothing.

        Raises:
            LinkError: the SuperLink cannot be reached, or has ended the run.
        """
        with translated("to pull messages"):
            pulled = (self._pull(one) for one in list(message_ids) if self._is_due(one))
            return [message for message in pulled if message is not None]

    def _is_due(self, message_id: str) -> bool:
        notifications = self._notifications
        if notifications is not None and notifications.complete(message_id):
            return True
        doubted = notifications is not None and notifications.doubted(message_id)
        if not doubted and time.monotonic() < self._due.get(message_id, 0.0):
            return False
        node = self._asked.get(message_id)
        return node is None or message_id in self._partial or node in self._connected()

    def _connected(self) -> frozenset[int]:
        # Once a period and not once a reply: each look is a request.
        if time.monotonic() - self._online[0] > self._period:
            self.get_nodes()
        return self._online[1]

    def _pull(self, message_id: str) -> Message | None:
        """One reply; None where it is not there, or not all of it yet."""
        self._due[message_id] = time.monotonic() + self._period
        if self._notifications is not None:
            self._notifications.take(message_id)
        header = self._partial.pop(message_id, None) or self._header(message_id)
        if header is None:
            return None
        try:
            message = self._content(*header)
        except NotYet:
            self._partial[message_id] = header
            return None
        except Gone:
            gone = Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason="")
            message = _local(header[0], error=gone)  # as from Flower's own grid
        self.forget([message_id])
        return message

    def forget(self, message_ids: Iterable[str]) -> None:
        """Expect no replies to these requests any more."""
        for message_id in message_ids:
            self._due.pop(message_id, None)
            self._asked.pop(message_id, None)
            self._partial.pop(message_id, None)
            if self._notifications is not None:
                self._notifications.forget(message_id)

    def _header(self, message_id: str) -> tuple[MessageProto, ObjectTree] | None:
        pulled = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
        if not pulled.messages_list:
            return None
        return pulled.messages_list[0], pulled.message_object_trees[0]

    def _content(self, header: MessageProto, tree: ObjectTree) -> Message:
        key = header.metadata.message_id
        run_id = header.metadata.run_id
        parts = [one.object_id for one in iterate_object_tree(tree)]

        def pull(object_id: str) -> bytes | None:
            answer = self._runtime_client.PullObject(
                PullObjectRequest(node=self.node, run_id=run_id, object_id=object_id)
            )
            if not answer.object_found:
                raise Gone
            return answer.object_content if answer.object_available else None

        contents = fetch(self._pool, parts, pull, PART_SECONDS)
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=key)
        )
        try:
            return message_from_objects(key, contents)
        except ValueError as error:
            node = header.metadata.src_node_id
            log.warning("grid.unreadable", node=node, found=str(error))
            return _local(header, content=RecordDict())  # empty: no reply, so the site is absent

    def finish(self) -> None:
        """Tell Flower that the run has completed; nothing goes over the grid after it.

        Raises:
            LinkError: the SuperLink cannot be reached, or had ended the run.
        """
        with translated("to finish the run"):
            self._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details="completed")
            )

    def close(self) -> None:
        """Disconnect from the SuperLink; without :meth:`finish` the run fails after a minute."""
        self._closing.set()
        self._heart.join(timeout=2)
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            runtime = self._client
            try:
                with translated("to send a heartbeat"):
                    if runtime is not None:
                        runtime.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except LinkError as error:
                log.warning("run.heartbeat-failed", error=error.what)


def _local(
    header: MessageProto, *, content: RecordDict | None = None, error: Error | None = None
) -> Message:
    """What takes the place of a reply that cannot be read."""
    metadata = Metadata(
        run_id=header.metadata.run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID,
        message_type=SYSTEM_MESSAGE_TYPE,
        group_id="",
        ttl=0,
        reply_to_message_id=header.metadata.reply_to_message_id,
        created_at=now().timestamp(),
    )
    return make_message(metadata=metadata, content=content, error=error)
