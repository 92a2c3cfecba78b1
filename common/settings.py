"""Settings files: TOML into frozen models, and errors that name the key."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConsiliumError

T = TypeVar("T", bound=BaseModel)
SHOWN: Final = 8
"""How many faults of one file are shown at once: a screenful."""


class Section(BaseModel):
    """One section of a settings file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def load_toml(path: Path, model: type[T], error: type[ConsiliumError]) -> T:
    """Read a TOML file into ``model``.

    Raises:
        ConsiliumError: of the given type, when the file is missing, is not TOML, or a key
            has no acceptable value; every key at fault is named.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error("there is no such file", where=path, wanted="a TOML file") from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as cause:
        raise error("the file cannot be read as TOML", where=path, found=cause) from cause
    try:
        return model.model_validate(document)
    except ValidationError as cause:
        raise _explain(path, cause, model, error) from cause


def _explain(
    path: Path, cause: ValidationError, model: type[BaseModel], error: type[ConsiliumError]
) -> ConsiliumError:
    faults = cause.errors(include_url=False)
    lines = [_fault(fault, model) for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f"and {len(faults) - SHOWN} more")
    number = "a setting" if len(faults) == 1 else f"{len(faults)} settings"
    return error(
        f"{number} in {path.name} cannot be used",
        where=path,
        found=("\n" + " " * 10).join(lines),
        remedy="mend what is named and start again; nothing was changed",
    )


def _fault(fault: Any, model: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    where = [part for part in fault["loc"] if part not in ("patient", "none")]
    key = ".".join(str(part) for part in where) or "the file as a whole"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(where, model)}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if isinstance(fault["input"], dict):
        return f"{key}: {message}"
    return f"{key} = {fault['input']!r}: {message}"


def _nearest(where: list[Any], model: type[BaseModel]) -> str:
    fields = _known_keys([str(part) for part in where[:-1]], model)
    near = difflib.get_close_matches(str(where[-1]), fields, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(sorted(fields))}" if fields else ""


def _known_keys(path: list[str], model: type[BaseModel]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
