"""Changing sound inputs a little: bytes, text, documents, and Protocol Buffers.

What is changed follows from a ``random.Random`` alone, so that an input can be made again.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS: Final = (0, 1, -1, 2, 127, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
LARGE: Final = (*INTEGERS, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
FLOATS: Final = (0.0, -0.0, 0.5, 1e-9, 1e-300, 5e-324, 1e20, 1e300, -1e300)
FLOATS_BEYOND: Final = (math.nan, math.inf, -math.inf)
TEXTS: Final = (
    "", " ", "\0", "\n", "\r\n", "\ufeff", "\u00a0", "\u202e", "é", "İ", "ß", "\U0001f9e0",
    "0", "-1", "1e400", "NaN", "inf", "true", "null", "0x10", "1,5", "1_000", "٣",
    "../../etc/passwd", "/", "\\", "C:\\x", "'", '"', ";", ",", "=1+1", "%s%n", "{}", "[red]",
    "\x1b[31m", "a" * 300, "é" * 5000, "[" * 2000, '"', "'''",
)  # fmt: skip
DEEP: Final = (8, 40, 200)
"""Levels that a document is nested to."""

Draw = random.Random


def bytes_of(draw: Draw, data: bytes) -> bytes:
    """Bytes with one to four places changed."""
    whole = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice(_BYTES)(draw, whole)
    return bytes(whole)


def _place(draw: Draw, whole: bytearray) -> tuple[int, int]:
    start = draw.randrange(len(whole) + 1)
    return start, min(len(whole), start + draw.choice((1, 2, 4, 16, 256)))


def _flip(draw: Draw, whole: bytearray) -> None:
    if whole:
        whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)


def _set(draw: Draw, whole: bytearray) -> None:
    if whole:
        whole[draw.randrange(len(whole))] = draw.choice((0, 10, 32, 127, 128, 254, 255))


def _number(draw: Draw, whole: bytearray) -> None:
    size = draw.choice((2, 4, 8))
    start = draw.randrange(len(whole) + 1)
    value = draw.choice(INTEGERS) % 2 ** (8 * size)
    whole[start : start + size] = value.to_bytes(size, draw.choice(("little", "big")))


def _cut(draw: Draw, whole: bytearray) -> None:
    start, end = _place(draw, whole)
    del whole[start:end]


def _repeat(draw: Draw, whole: bytearray) -> None:
    start, end = _place(draw, whole)
    whole[end:end] = whole[start:end] * draw.choice((1, 1, 2, 50))


def _insert(draw: Draw, whole: bytearray) -> None:
    start, _ = _place(draw, whole)
    whole[start:start] = draw.randbytes(draw.choice((1, 2, 8)))


def _end(draw: Draw, whole: bytearray) -> None:
    del whole[draw.randrange(len(whole) + 1) :]


_BYTES: Final = (_flip, _flip, _set, _number, _number, _cut, _repeat, _insert, _end)


def text_of(draw: Draw, text: str) -> str:
    """Text with one to three tokens replaced, removed, repeated or joined by others."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice((0, 1, 1, 3, 10)))
        new = draw.choice(
            (
                "",
                text[start:end] * 2,
                draw.choice(TEXTS),
                repr(draw.choice(FLOATS)),
                str(draw.choice(INTEGERS)),
                draw.choice("[]{}=,.:;#\"'\\\n\t"),
            )
        )
        text = text[:start] + new + text[end:]
    return text


def tree_of(draw: Draw, tree: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """A document of JSON with one to three of its values changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw.choice((1, 1, 2, 3))):
        holder, key = draw.choice(list(_places({"": tree})))
        if isinstance(holder[key], dict) and draw.random() < 0.5:
            _change_keys(draw, holder[key])
        else:
            holder[key] = value_of(draw, holder[key])
        if holder.keys() == {""} if isinstance(holder, dict) else False:
            tree = holder[""]
    return tree


def _places(holder: Any) -> Any:  # noqa: ANN401 - pairs of a container and a key
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in list(items):
        yield holder, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _change_keys(draw: Draw, section: dict[str, Any]) -> None:
    name = draw.choice(list(section) or ["name"])
    match draw.randrange(3):
        case 0:
            section.pop(name, None)
        case 1:
            section[draw.choice((*TEXTS, name + "s"))] = section.pop(name, None)
        case _:
            section[draw.choice(TEXTS)] = draw.choice((1, "x", {}, []))


def value_of(draw: Draw, value: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """Another value in the place of one: near it, at an edge, or of another kind."""
    near = _near(draw, value)
    others: tuple[Any, ...] = (
        draw.choice(LARGE), draw.choice(FLOATS), draw.choice(FLOATS_BEYOND), draw.choice(TEXTS),
        None, True, [], {}, [value], {"x": value}, [value] * draw.choice((2, 200)), _deep(draw),
    )  # fmt: skip
    return near if draw.random() < 0.5 else draw.choice(others)


def _near(draw: Draw, value: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    match value:
        case bool():
            return not value
        case int() if abs(value) < 2**64:
            return draw.choice(
                (value + 1, value - 1, -value, value * 10**6, value / 10, str(value))
            )
        case float():
            scaled = value * 10.0 ** draw.choice((-300, -20, -3, 3, 20))
            return draw.choice((scaled, -value, math.nextafter(value, 2), str(value)))
        case str():
            return text_of(draw, value)
        case list():
            return draw.choice((value[1:], value + value[:1], value[::-1]))
        case _:
            return draw.choice(LARGE)


def _deep(draw: Draw) -> Any:  # noqa: ANN401 - what JSON can hold
    tree: Any = 1
    for _ in range(draw.choice(DEEP)):
        tree = [tree] if draw.random() < 0.5 else {"x": tree}
    return tree


def proto_of(draw: Draw, message: Message) -> None:
    """Change one to three fields of a message, at any depth."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        inside = list(_messages(message))
        _change_field(draw, draw.choice(inside))


def _messages(message: Message) -> Any:  # noqa: ANN401 - messages
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            values = list(value.values()) if hasattr(value, "values") else []
        else:
            values = list(value) if _repeated(field) else [value]
        for each in values:
            if isinstance(each, Message):
                yield from _messages(each)


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _change_field(draw: Draw, message: Message) -> None:
    there = [field for field, _ in message.ListFields()]
    field = draw.choice(there if there and draw.random() < 0.8 else message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if len(value):
            _change_map(draw, value)
    elif field.message_type is not None:
        if not _repeated(field):
            message.ClearField(field.name)
        elif len(value):
            del value[draw.randrange(len(value))]
        else:
            value.add()
    elif _repeated(field):
        kept = [*value, _scalar(draw, field, value[0] if len(value) else None)]
        del value[:]
        value.extend(draw.choice((kept, kept[1:], kept[::-1], kept * draw.choice((2, 50)))))
    else:
        setattr(message, field.name, _scalar(draw, field, value))


def _change_map(draw: Draw, value: Any) -> None:  # noqa: ANN401 - one of protobuf's maps
    key = draw.choice(sorted(value))
    other = draw.choice((key + "s", "", "arrays", "x" * 300)) if isinstance(key, str) else key
    held = value[key]
    if not isinstance(held, Message):
        value[other] = held
    elif draw.random() < 0.5:
        value[other].CopyFrom(held)
    if draw.random() < 0.7:
        del value[key]


_INTEGERS: Final[dict[int, tuple[int, int]]] = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}


def _scalar(draw: Draw, field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401 - any scalar
    if field.type == FieldDescriptor.TYPE_STRING:
        # A lone surrogate has no place on the wire.
        return text_of(draw, value or "").encode("utf-8", "replace").decode()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes_of(draw, value or b"")
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not value
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        near = (value or 0) + draw.choice((1, -1))
        return min(high, max(low, draw.choice((near, draw.choice(LARGE), -draw.choice(LARGE)))))
    return draw.choice((*FLOATS, *FLOATS_BEYOND))


def json_of(draw: Draw, data: bytes) -> bytes:
    """A document of JSON, changed as a document or as text."""
    if draw.random() < 0.7:
        tree = tree_of(draw, json.loads(data))
        return json.dumps(tree, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    changed: Callable[[], bytes] = draw.choice(
        (lambda: bytes_of(draw, data), lambda: text_of(draw, data.decode()).encode())
    )
    return changed()
