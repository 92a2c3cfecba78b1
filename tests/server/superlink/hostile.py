"""Replies as an admitted site's administrator may forge them, pushed as the protocol has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256

from client.daemon.fleet import Fleet
from common.wire.flower import ArrayRecord, ConfigRecord, Message, RecordDict

# isort: split
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

Forger = Callable[[Message], list[bytes]]
"""Gives the objects of a reply, the root last."""


def built(kind: str, children: list[bytes], body: bytes) -> bytes:
    """An object as Flower writes it."""
    ids = ",".join(sha256(each).hexdigest() for each in children)
    return f"{kind} {ids} {len(body)}".encode() + b"\0" + body


def around(content: bytes, received: Message) -> bytes:
    """A message with this content."""
    reply = message_to_proto(Message(RecordDict(), reply_to=received))
    body = MessageProto(metadata=reply.metadata).SerializeToString()
    return built("Message", [content], body)


def another_record(_received: Message) -> list[bytes]:
    return [ConfigRecord({"a": 1}).deflate()]


def garbage(_received: Message) -> list[bytes]:
    return [built("Message", [], b"\xff\xff\xff")]


def neither_content_nor_error(_received: Message) -> list[bytes]:
    return [built("Message", [], MessageProto().SerializeToString())]


def message_in_message(received: Message) -> list[bytes]:
    inner = [each.deflate() for each in get_all_nested_objects(received).values()]
    return [*inner, around(inner[-1], received)]


def array_as_content(received: Message) -> list[bytes]:
    content = ArrayRecord().deflate()
    return [content, around(content, received)]


def no_such_part(received: Message) -> list[bytes]:
    return [around(b"was never sent", received)]


def nested(received: Message, depth: int = 50) -> list[bytes]:
    parts = [built("RecordDict", [], b"{}")]
    for _ in range(depth):
        parts.append(built("RecordDict", [parts[-1]], b"{}"))
    return [*parts, around(parts[-1], received)]


def one_part_many_times(received: Message, times: int = 2**16) -> list[bytes]:
    chunk = built("ArrayChunk", [], b"\0" * 2**20)
    told = {"dtype": "float32", "shape": [times * 2**18], "stype": "numpy.ndarray"}
    body = json.dumps(told | {"arraychunk_ids": [0] * times}).encode()  # 64 GiB
    array = built("Array", [chunk], body)
    record = built("ArrayRecord", [array], json.dumps({"a": sha256(array).hexdigest()}).encode())
    content = built(
        "RecordDict", [record], json.dumps({"arrays": sha256(record).hexdigest()}).encode()
    )
    return [chunk, array, record, content, around(content, received)]


def one_array_many_times(received: Message, times: int = 2**16) -> list[bytes]:
    chunk = built("ArrayChunk", [], b"\0" * 2**20)
    told = {"dtype": "uint8", "shape": [2**20], "stype": "numpy.ndarray", "arraychunk_ids": [0]}
    array = built("Array", [chunk], json.dumps(told).encode())
    names = {str(number): sha256(array).hexdigest() for number in range(times)}
    record = built("ArrayRecord", [array], json.dumps(names).encode())
    content = built(
        "RecordDict", [record], json.dumps({"arrays": sha256(record).hexdigest()}).encode()
    )
    return [chunk, array, record, content, around(content, received)]


def array_of_arrays(received: Message, deep: int = 8) -> list[bytes]:
    """Each ten times the one before it."""
    parts = [built("ArrayChunk", [], b"\0" * 1000)]
    told = {"dtype": "uint8", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 10}
    for _ in range(deep):
        parts.append(built("Array", [parts[-1]], json.dumps(told).encode()))
    names = json.dumps({"a": sha256(parts[-1]).hexdigest()}).encode()
    parts.append(built("ArrayRecord", [parts[-1]], names))
    names = json.dumps({"arrays": sha256(parts[-1]).hexdigest()}).encode()
    parts.append(built("RecordDict", [parts[-1]], names))
    return [*parts, around(parts[-1], received)]


FORGERS: list[Forger] = [
    another_record,
    garbage,
    neither_content_nor_error,
    message_in_message,
    array_as_content,
    no_such_part,
    nested,
    one_part_many_times,
]


def push(fleet: Fleet, received: Message, parts: list[bytes]) -> None:
    """Announce a reply that consists of these objects, and bring them."""
    ids = [sha256(part).hexdigest() for part in parts]
    header = message_to_proto(Message(RecordDict(), reply_to=received))
    header.metadata.message_id = ids[-1]
    tree = ObjectTree(object_id=ids[-1], children=[ObjectTree(object_id=each) for each in ids[:-1]])
    node, client = Node(node_id=fleet.node_id), fleet._client  # noqa: SLF001 - no honest site can
    pushed = client.PushMessages(
        PushMessagesRequest(node=node, messages_list=[header], message_object_trees=[tree])
    )
    for object_id, part in zip(ids, parts, strict=True):
        if object_id not in pushed.objects_to_push:  # the request has it too
            continue
        client.PushObject(
            PushObjectRequest(
                node=node,
                run_id=received.metadata.run_id,
                object_id=object_id,
                object_content=part,
                session_id=pushed.session_id,
            )
        )
