"""How long work tells how far it is, to a command line, a test, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Tracker(Protocol):
    """Work under way, as :func:`common.process.console.progress` gives it."""

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more units as done."""


class Progress(Protocol):
    """How the caller wants to hear about work: as :func:`common.process.console.progress`."""

    def __call__(
        self, description: str, total: int, *, unit: str = ""
    ) -> AbstractContextManager[Tracker]:
        """Begin a job of ``total`` units."""


class _Silence:
    def advance(self, n: int = 1) -> None:
        """Nothing is shown."""


@contextmanager
def silent(description: str, total: int, *, unit: str = "") -> Iterator[Tracker]:
    """Progress that nobody hears of."""
    del description, total, unit
    yield _Silence()
