"""What is taken from Flower's inside, in one place, pinned to 1.41; what keeps its log quiet."""

from __future__ import annotations

import logging
from typing import Any, Final

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    RecordDict,
)
from flwr.app.message.arraychunk import ArrayChunk
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from common.documents import read_json
from common.visible import visible


def _harmless(record: logging.LogRecord) -> bool:
    """Flower's log lines may quote what another side sent: make them harmless for a terminal."""
    record.msg, record.args = visible(record.getMessage()), ()
    return True


logging.getLogger("flwr").setLevel(logging.WARNING)
logging.getLogger("flwr").addFilter(_harmless)

LARGEST_REPEATED: Final = 2**30
"""Bytes that a message may grow to by naming parts more than once, as an array of zeros does."""


def identify(run_id: int, node_id: int = 0, task_id: int = 0) -> None:
    """Tell Flower which run this process serves; ``Message(...)`` raises without it.

    The identity is global to the process: one run per process.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = task_id


def message_bytes(message: Message) -> bytes:
    """A whole message, content and all, as it goes from one of our processes to another."""
    return message_to_proto(message).SerializeToString()


def message_from_bytes(data: bytes) -> Message:
    """What :func:`message_bytes` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        return message_from_proto(MessageProto.FromString(data))
    except DecodeError as cause:
        raise ValueError("not a message") from cause


def message_from_objects(message_id: str, contents: dict[str, bytes]) -> Message:
    """The message that another side has sent as objects, which may be wrong in any way.

    Args:
        message_id: of the message, and of the object it begins with.
        contents: every object, by its identifier; emptied, so that none is held twice.

    Raises:
        ValueError: they are no message with content or an error.
    """
    try:
        _demand_size(contents)
        message: Any = inflate_object_from_contents(message_id, contents)
        if not isinstance(message, Message):
            raise TypeError
        if not message.has_error() and not isinstance(message.content, RecordDict):
            raise TypeError
    except Exception as cause:
        raise ValueError(f"not a message: {type(cause).__name__}") from cause
    # As Flower itself does: there is no setter, and a reply names the message by it.
    message.metadata.__dict__["_message_id"] = message_id
    return message


def _demand_size(contents: dict[str, bytes]) -> None:
    """A small object may name one part a million times, and would be put together in memory.

    So may a record name one array, and a message's content one record.
    """
    most = max(LARGEST_REPEATED, sum(map(len, contents.values())))
    grown = {key: len(content) for key, content in contents.items()}
    for kind in (Array, ArrayRecord, RecordDict):  # from the inside out
        for key, content in contents.items():
            if get_object_type_from_object_content(content) != kind.__qualname__:
                continue
            grown[key] += sum(grown[part] for part in _parts(contents, content, kind))
            if grown[key] > most:
                raise ValueError("a message that grows")


def _parts(contents: dict[str, bytes], content: bytes, kind: type[Any]) -> list[str]:
    """What an object is put together from, as often as it names each."""
    told = read_json(get_object_body(content, kind))
    if kind is not Array:
        return list(told.values())
    children = get_object_children_ids_from_object_content(content)
    for child in children:  # an array of arrays would grow with each that it is within
        if get_object_type_from_object_content(contents[child]) != ArrayChunk.__qualname__:
            raise TypeError
    return [children[part] for part in told["arraychunk_ids"]]


def context(run_id: int, node_id: int, *, node: dict[str, str], run: dict[str, str]) -> Context:
    """A Flower ``Context`` with the given node and run configuration and empty state."""
    return Context(
        run_id=run_id,
        node_id=node_id,
        node_config=dict(node),
        state=RecordDict(),
        run_config=dict(run),
    )


__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "ErrorCode",
    "Message",
    "RecordDict",
    "context",
    "identify",
    "message_bytes",
    "message_from_bytes",
    "message_from_objects",
]
