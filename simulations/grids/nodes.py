"""A Flower grid of sites that need no network: their nodes, and messages that wait for a pull.

As over Flower's own grid a pull is destructive, and no exception of a client reaches the
coordinator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from common.process.logs import place
from common.wire.flower import Error, ErrorCode, Message, RecordDict, identify

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

RUN_ID: Final = 1

_log = structlog.get_logger(__name__)


class NodesGrid(Grid):
    """The sites of a simulation, as a ``ServerApp`` sees them.

    Args:
        names: of each node's site, by the node's id.
        order: names of all sites in the order in which they are listed, and so asked; by default
            that of ``names``. No result depends on it.
        run_id: Flower's number for the run; global to the process.
    """

    def __init__(
        self, names: Mapping[int, str], *, order: Sequence[str] | None = None, run_id: int = RUN_ID
    ) -> None:
        if order is not None and sorted(order) != sorted(names.values()):
            raise ValueError("order must name every site once")
        rank = {name: place for place, name in enumerate(order or names.values())}
        # A dict keeps its order, which is the order of asking.
        self._names = dict(sorted(names.items(), key=lambda item: rank[item[1]]))
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
        return list(self._names)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes, each with its id and its site's name, in the same order."""
        return [
            NodeInfo(node_id=node_id, name=name, status="online")
            for node_id, name in self._names.items()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take requests, whose replies can be pulled.

        Returns:
            One id for each message, in the same order.
        """
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies to these requests, one after the other, when they are there.

        Ids that are unknown, or were pulled before, give nothing.
        """
        for message_id in list(message_ids):
            # A reply can be pulled once, as over Flower's own grid.
            request = self._waiting.pop(message_id, None)
            if request is not None:
                yield self._reply(message_id, request)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies at once; each is waited for, so ``timeout`` has no effect."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _push(self, message: Message) -> str:
        if message.metadata.dst_node_id not in self._names:
            raise ValueError(f"no node {message.metadata.dst_node_id}")
        self._pushed += 1
        message_id = f"{self._run.run_id}-{self._pushed}"
        # Flower itself sets the id like this: its metadata has no setter.
        message.metadata.__dict__["_message_id"] = message_id
        self._waiting[message_id] = message
        return message_id

    @abstractmethod
    def _reply(self, message_id: str, request: Message) -> Message:
        """The reply to a request."""


class PassingGrid(Grid):
    """Another grid, of which a subclass changes something.

    Args:
        grid: the other one.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Take another run's description."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node, as its constructor makes it."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes' ids."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass requests on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies at once."""
        return list(self.pull_messages(self.push_messages(messages)))


def answered(client: Callable[[Message], Message], name: str, request: Message) -> Message:
    """A client's reply, or Flower's error where it failed; with its id."""
    try:
        reply = client(request)
    except Exception as error:  # noqa: BLE001 - a node turns whatever happens into a code
        _log.warning("site.failed", site=name, error=type(error).__name__, at=place(error))
        reply = failed(request)
    reply.metadata.__dict__["_message_id"] = f"{request.metadata.message_id}-reply"
    return reply


def failed(request: Message) -> Message:
    """Flower's error of a node whose client raised."""
    # No reason: an exception's text could name a patient, and the coordinator would read it.
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=""), reply_to=request)
