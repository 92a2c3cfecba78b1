"""Reading JSON and TOML that comes from elsewhere: size and depth are limited before parsing.

A document that is nested a million levels deep crashes a parser that calls itself for each
level, and any code that walks through the result. So every document is read here, or by
pydantic, whose JSON parser has a depth limit of its own. Every fault is a
:class:`ValueError`.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

MOST_BYTES: Final = 2**28
"""Of a JSON document, large enough for a checkpoint of many rounds and sites; callers set a
smaller limit for the others."""
MOST_TOML: Final = 2**20
"""Bytes of a file that a person writes."""
MOST_LEVELS: Final = 32
"""Levels of one; ours have four."""


def read_json(data: bytes | bytearray | str, *, most: int = MOST_BYTES) -> Any:  # noqa: ANN401 - what JSON can hold
    """What a document of JSON holds, of at most some 200 levels: pydantic's parser has that bound.

    Bytes are in UTF-8, -16 or -32, with or without a mark of their order, as RFC 4627 allowed.

    Raises:
        ValueError: it is too large; or UnreadableError, which is one: too deep, or no JSON.
    """
    _require_size(len(data), most)
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        return _ANYTHING.validate_json(text)
    except ValidationError as error:
        raise UnreadableError(
            error.errors(include_url=False, include_input=False)[0]["msg"]
        ) from error
    except UnicodeDecodeError as error:
        raise UnreadableError("the bytes are not text") from error


class UnreadableError(ValueError):
    """A document that is no JSON, or is nested too deeply to be read."""


_ANYTHING: Final = TypeAdapter[Any](Any)


def read_toml(data: bytes | str, *, most: int = MOST_TOML) -> dict[str, Any]:
    """What a document of TOML holds.

    Raises:
        ValueError: it is too large, nested beyond :data:`MOST_LEVELS`, or no TOML.
    """
    _require_size(len(data), most)
    # tomllib calls itself for each level, and has no limit of its own.
    text = data.decode() if isinstance(data, bytes) else data
    if levels(text) > MOST_LEVELS:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    return tomllib.loads(text)


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"{size} bytes; at most {most} are allowed")


# Possessive (``*+``): a quotation that never ends costs one pass, instead of one from every place.
_QUOTED: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)'
    r"|'''(?:[^']|'(?!''))*+(?:'''|\Z)"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+",
    re.DOTALL,
)
"""What is in quotation marks, or in a comment (TOML 1.0)."""
_DOTTED: Final = re.compile(r"(?:[^\n,=\[\]{}.]*+\.)+")


def levels(text: str) -> int:
    """A bound on how deep TOML is nested: by brackets, and by the dots of its keys."""
    bare = _QUOTED.sub("", text)
    depth = deepest = 0
    for bracket in re.finditer(r"[\[\]{}]", bare):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    dots = max((found[0].count(".") for found in _DOTTED.finditer(bare)), default=0)
    return deepest + dots
