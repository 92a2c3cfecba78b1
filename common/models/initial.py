"""Public starting weights: a file of named arrays that says where they come from.

The file is safetensors: arrays without any code. What they were trained on is not covered by a
study's epsilon, so the file names it, with source and licence, and a study carries that to every
person who approves a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator

from common.documents import read_json
from common.files import canonical_json, sha256
from common.settings import Section
from common.text import Digest, Words

Arrays = Mapping[str, npt.NDArray[np.float32]]
"""By the parameter's name in the model."""
SUFFIX: Final = ".safetensors"
LARGEST: Final = 2**30
"""Bytes of a file: twice the largest model's."""
_HEADER: Final = 8
_MOST_HEADER: Final = 2**24


def _plain(name: str) -> str:
    if len(name) > 100 or not name.endswith(SUFFIX) or set(name) & set("/\\") or name[:1] == ".":
        raise ValueError(
            f"should be the name of a file beside the study file that ends with {SUFFIX}"
        )
    return name


class Initial(Section):
    """``[model.initial]``: what a file of starting weights is.

    A study file names the file alone, ``initial = "FILE.safetensors"``; the rest is read from it.

    Attributes:
        file: its name, beside the study file.
        sha256: of its bytes.
        source: who made the weights, or where they are published.
        licence: under which they may be used.
        trained_on: the data that they were trained on.
    """

    file: Annotated[Words, AfterValidator(_plain)]
    sha256: Digest
    source: Words
    licence: Words
    trained_on: Words


def with_initial(document: object, find: Callable[[str], bytes]) -> object:
    """A study's document with what the file of starting weights that it names says of itself.

    Args:
        document: as TOML gives it; what is no study is left to be refused.
        find: gives the bytes of a file by its name.

    Raises:
        ValueError: the file is none of starting weights.
    """
    model = document.get("model") if isinstance(document, dict) else None
    name = model.get("initial") if isinstance(model, dict) else None
    if not (isinstance(document, dict) and isinstance(model, dict) and isinstance(name, str)):
        return document
    return document | {"model": model | {"initial": _described(name, find(_plain(name)))}}


def named_file(document: object) -> str | None:
    """The file of starting weights that a study's document names."""
    model = document.get("model") if isinstance(document, dict) else None
    name = model.get("initial") if isinstance(model, dict) else None
    return _plain(name) if isinstance(name, str) else None


def without_initial(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same document as if it named no file."""
    model = document.get("model")
    if not isinstance(model, dict):
        return dict(document)
    left = {key: each for key, each in model.items() if key != "initial"}
    return {**document, "model": left}


def _described(name: str, data: bytes) -> dict[str, Any]:
    said = _header(data).get("__metadata__", {})
    missing = [key for key in ("source", "licence", "trained_on") if not said.get(key)]
    if missing:
        raise ValueError(
            f"{name} does not say its {' and '.join(missing)}: "
            "consilium-coordinator weights writes a file that does"
        )
    about = {key: said[key] for key in ("source", "licence", "trained_on")}
    return {"file": name, "sha256": sha256(data), **about}


def _header(data: bytes) -> dict[str, Any]:
    # The format: eight bytes of length, a JSON object, the numbers.
    size = int.from_bytes(data[:_HEADER], "little")
    if len(data) < _HEADER or not 0 < size <= min(_MOST_HEADER, len(data) - _HEADER):
        raise ValueError("the file is no safetensors file")
    found = read_json(data[_HEADER : _HEADER + size])
    if not isinstance(found, dict) or not isinstance(found.get("__metadata__", {}), dict):
        raise ValueError("the file is no safetensors file")
    return found


def arrays_of(data: bytes) -> Arrays:
    """The arrays of a file of starting weights.

    Raises:
        ValueError: it cannot be read, or an array is not float32 or not finite.
    """
    import safetensors
    import safetensors.numpy

    _header(data)
    try:
        found: dict[str, npt.NDArray[Any]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"the arrays cannot be read: {error}") from error
    for name, each in found.items():
        if each.dtype != np.float32 or not np.isfinite(each).all():
            raise ValueError(f"{name} should be float32 and finite")
    return found


def written(arrays: Arrays, *, source: str, licence: str, trained_on: str) -> bytes:
    """The bytes of a file of starting weights: the same ones for the same arrays and words."""
    import safetensors.numpy

    said = {"format": "pt", "source": source, "licence": licence, "trained_on": trained_on}
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(each, dtype=np.float32) for name, each in arrays.items()}, said
    )
    # The library's words come in another order each time, and a study's hash holds the file's.
    header = canonical_json(_header(data))
    header += b" " * (-len(header) % _HEADER)
    numbers = data[_HEADER + int.from_bytes(data[:_HEADER], "little") :]
    return len(header).to_bytes(_HEADER, "little") + header + numbers
