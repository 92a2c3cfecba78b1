"""One thing that somebody dishonest does, and where it is to be found afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Who = TypeVar("Who")


@dataclass(frozen=True)
class Move(Generic[Who]):
    """A move of a script.

    Attributes:
        name: what is done.
        do: does it, by whoever does it; raises where it has another end than it should.
        traces: what of it must stand in a log of whom it is done to: one of these.
    """

    name: str
    do: Callable[[Who], object]
    traces: tuple[str, ...]
