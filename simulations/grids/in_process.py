"""A Flower grid that lives in this process: every site is a context, every site's code one app.

A request waits, its content shared and not copied, until its reply is pulled; only then does
the site's client run. So at most one reply exists at a time, whatever the number of sites.
As over Flower's own grid a pull is destructive, and no exception of a client reaches the
coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from common.process.logs import place
from common.wire.flower import Context, Error, ErrorCode, Message, RecordDict, identify

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

if TYPE_CHECKING:
    from simulations.grids.grid import Client

RUN_ID: Final = 1

_log = structlog.get_logger(__name__)


class LocalGrid(Grid):
    """The sites of a simulation, as a ``ServerApp`` sees them.

    Args:
        client: what every site runs: a Flower ``ClientApp``.
        sites: for each node id the site's name and its context.
        order: names of all sites in the order in which they are listed, and so asked;
            by default that of ``sites``. No result depends on it.
        run_id: Flower's number for the run; global to the process.
    """

    def __init__(
        self,
        client: Client,
        sites: Mapping[int, tuple[str, Context]],
        *,
        order: Sequence[str] | None = None,
        run_id: int = RUN_ID,
    ) -> None:
        names = [name for name, _ in sites.values()]
        if order is not None and sorted(order) != sorted(names):
            raise ValueError("order must name every site once")
        rank = {name: place for place, name in enumerate(order or names)}
        # A dict keeps its order, which is the order of asking.
        self._sites = dict(sorted(sites.items(), key=lambda item: rank[item[1][0]]))
        self._client = client
        self._waiting: dict[str, Message] = {}
        self._pushed = 0
        self._run = Run.create_empty(run_id)
        identify(run_id, node_id=SUPERLINK_NODE_ID)

    def set_run(self, run: Run) -> None:
        """Take another run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node, as its constructor makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes' ids, in the order in which they are asked."""
        return list(self._sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes, each with its id and its site's name, in the same order."""
        return [
            NodeInfo(node_id=node_id, name=name, status="online")
            for node_id, (name, _) in self._sites.items()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep requests until their replies are pulled; nothing runs yet.

        Returns:
            One id for each message, in the same order.
        """
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the clients of these requests, one after the other, and hand out their replies.

        Ids that are unknown, or were pulled before, give nothing.
        """
        for message_id in list(message_ids):
            # A reply can be pulled once, as over Flower's own grid.
            request = self._waiting.pop(message_id, None)
            if request is not None:
                yield self._answer(request)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies at once; nothing waits here, so ``timeout`` has no effect."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _push(self, message: Message) -> str:
        if message.metadata.dst_node_id not in self._sites:
            raise ValueError(f"no node {message.metadata.dst_node_id}")
        self._pushed += 1
        message_id = f"{self._run.run_id}-{self._pushed}"
        # Flower itself sets the id like this: its metadata has no setter.
        message.metadata.__dict__["_message_id"] = message_id
        self._waiting[message_id] = message
        return message_id

    def _answer(self, request: Message) -> Message:
        name, context = self._sites[request.metadata.dst_node_id]
        try:
            reply = self._client(request, context)
        except Exception as error:  # noqa: BLE001 - a node turns whatever happens into a code
            _log.warning("site.failed", site=name, error=type(error).__name__, at=place(error))
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            # No reason: an exception's text could name a patient, and the coordinator would read
            # it.
            reply = Message(Error(code=code, reason=""), reply_to=request)
        reply.metadata.__dict__["_message_id"] = f"{request.metadata.message_id}-reply"
        return reply
