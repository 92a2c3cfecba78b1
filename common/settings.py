"""Settings files: TOML into frozen models, and errors that name the key."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError

from common.documents import MOST_TOML, read_toml
from common.errors import ConsiliumError, of_system

T = TypeVar("T", bound=BaseModel)
SHOWN: Final = 8
"""How many faults of one file are shown at once: a screenful."""

LONGEST: Final = 200
"""Characters of a value that are shown."""


def _exact(schema: Any) -> Any:  # noqa: ANN401 - a core schema, or a part of one
    """A schema whose numbers are strict; wholly strict ones would refuse TOML's lists and paths."""
    if isinstance(schema, dict):
        strict = {"strict": True} if schema.get("type") in ("int", "float") else {}
        return {key: _exact(each) for key, each in schema.items()} | strict
    return [*map(_exact, schema)] if isinstance(schema, list) else schema


class Section(BaseModel):
    """One section of a settings file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:  # noqa: ANN401 - as pydantic's own
        """Take numbers as numbers: pydantic would read true and "1" as 1."""
        return _exact(handler(source))


def load_toml(path: Path, model: type[T], error: type[ConsiliumError]) -> T:
    """Read a TOML file into ``model``.

    Raises:
        ConsiliumError: of the given type, when the file is missing, is not TOML, or a key
            has no acceptable value; every key at fault is named.
    """
    return checked(load_document(path, error), path, model, error)


def load_document(path: Path, error: type[ConsiliumError]) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ConsiliumError: of the given type, when the file is missing or is not TOML.
    """
    try:
        with path.open("rb") as file:
            # One byte more than is allowed: a larger file is refused, and not read in part.
            return read_toml(file.read(MOST_TOML + 1))
    except FileNotFoundError as cause:
        raise error(
            "there is no such file", where=path, wanted="a TOML file", remedy="check the path"
        ) from cause
    except OSError as cause:
        raise of_system(cause, error, where=path) from cause
    except ValueError as cause:
        raise unreadable(path, cause, error) from cause


def unreadable(path: Path, cause: ValueError, error: type[ConsiliumError]) -> ConsiliumError:
    """The error for a file that is no TOML, or no text in UTF-8."""
    found = "bytes that are not UTF-8" if isinstance(cause, UnicodeDecodeError) else cause
    return error(
        "the file cannot be read as TOML",
        where=path,
        found=found,
        wanted="a TOML file: text in UTF-8, with lines such as rounds = 20",
        remedy="correct the file at this place and start again; nothing was changed",
    )


def checked(document: object, path: Path, model: type[T], error: type[ConsiliumError]) -> T:
    """Make ``model`` of what was read from ``path``.

    Raises:
        ConsiliumError: of the given type, when a key has no acceptable value; every key at
            fault is named.
    """
    try:
        return model.model_validate(document)
    except ValidationError as cause:
        raise _explain(path, cause, model, error) from cause


def _explain(
    path: Path, cause: ValidationError, model: type[BaseModel], error: type[ConsiliumError]
) -> ConsiliumError:
    places: dict[str, list[str]] = {}
    for fault in cause.errors(include_url=False):
        if fault["type"] == "default_factory_not_called":  # because of another fault, told too
            continue
        where, message = _fault(fault, model)
        places.setdefault(where, []).append(message)
    lines = [f"{where}: {'; or '.join(messages)}" for where, messages in places.items()]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more"]
    number = "a setting" if len(places) == 1 else f"{len(places)} settings"
    return error(
        f"{number} in {path.name} cannot be used",
        where=path,
        found=("\n" + " " * 10).join(lines),
        remedy="correct the settings listed above and start again; nothing was changed",
    )


def _fault(fault: Any, model: type[BaseModel]) -> tuple[str, str]:  # noqa: ANN401 - pydantic's ErrorDetails
    """Where a fault is, with the value found there, and what is wrong with it."""
    keys, siblings = _keys(fault["loc"], model)
    where = ".".join(keys) or "the file as a whole"
    if fault["type"] == "extra_forbidden":
        return where, f"unknown key{_nearest(keys[-1], siblings)}"
    if fault["type"] == "missing":
        return where, "missing"
    if fault["type"].startswith("union_tag"):
        return _undecided(where, fault["ctx"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "path_type":  # else it names a class of Python's
        message = "should be a path, in quotation marks"
    if isinstance(fault["input"], dict) or fault["loc"][-1:] == ("[key]",):
        return where, message
    value = repr(fault["input"])
    if len(value) > LONGEST:
        value = f"{value[:LONGEST]}... ({len(value)} characters)"
    return f"{where} = {value}", message


def _undecided(where: str, context: dict[str, str]) -> tuple[str, str]:
    """The key that decides between two kinds of a section is missing, or names neither."""
    key = f"{where}.{context['discriminator'].strip(chr(39))}"
    if "tag" not in context:
        return key, "missing"
    return f"{key} = {context['tag']!r}", f"should be one of {context['expected_tags']}"


def _nearest(key: str, siblings: list[str]) -> str:
    near = difflib.get_close_matches(key, siblings, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known keys: {', '.join(sorted(siblings))}"


def _keys(place: tuple[str | int, ...], model: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The keys of a place as the file has them, and those known beside the last one.

    Where a key has alternatives, pydantic names in a part of its own which one it tried.
    """
    keys: list[str] = []
    siblings: list[str] = []
    kind: Any = model
    for part in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            siblings = list(kind.model_fields)
            found = kind.model_fields.get(str(part))
            kind = found.annotation if found else None
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) in (Union, UnionType):
            kind = next((each for each in get_args(kind) if _is_tagged(each, part)), None)
            continue
        if part != "[key]":
            keys.append(str(part))
    return keys, siblings


def _is_tagged(kind: Any, tag: str | int) -> bool:  # noqa: ANN401 - an annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    return any(tag in get_args(field.annotation) for field in kind.model_fields.values())
