"""Files of TOML that a person writes, changed as documents and as text."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from typing import Any

from tests.fuzz.mutation import Draw, bytes_of, text_of, tree_of
from tests.fuzz.target import Target


class Settings(Target):
    """A file of TOML that a person writes."""

    document: dict[str, Any]

    def samples(self) -> Sequence[bytes]:
        return [sections(self.document).encode()]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        match draw.randrange(5):
            case 0:
                return bytes_of(draw, data)
            case 1:
                return text_of(draw, data.decode()).encode("utf-8", "replace")
            case _:
                tree = tree_of(draw, tomllib.loads(data.decode()))
                if not isinstance(tree, dict):
                    return repr(tree).encode("utf-8", "replace")
                try:
                    return toml(_without_nothing(tree)).encode("utf-8", "replace")
                except RecursionError:  # ours, not the reader's: several deep ones in each other
                    return bytes_of(draw, data)


def sections(document: dict[str, Any]) -> str:
    return "".join(f"[{name}]\n{toml(section)}" for name, section in document.items())


def _without_nothing(tree: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """TOML has no ``None``."""
    if isinstance(tree, dict):
        return {key or "x": _without_nothing(each) for key, each in tree.items()}
    if isinstance(tree, list):
        return [_without_nothing(each) for each in tree]
    return "none" if tree is None else tree


def toml(content: dict[str, Any]) -> str:
    """A section as TOML."""
    return "".join(f"{json.dumps(key)} = {_value(value)}\n" for key, value in content.items())


def _value(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {_value(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value)  # a JSON string is a TOML string
    return repr(value)
