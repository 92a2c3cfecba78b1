"""What is fuzzed: a reader of the product, sound inputs for it, and a way to spoil them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.errors import ConsiliumError
from tests.fuzz.mutation import Draw, bytes_of

FOREIGN: Final = ("Pydantic", "<class ", "object at 0x", "Traceback", "NoneType")
"""What Python says to programmers, and no error of ours to a person."""


class Target:
    """One reader.

    Args:
        folder: of its own, where it may write.

    Attributes:
        errors: what it may raise; each with something to do.
    """

    errors: tuple[type[ConsiliumError], ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def samples(self) -> Sequence[bytes]:
        """Sound inputs, and odd ones that are worth to begin with."""
        raise NotImplementedError

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        """A sample, changed."""
        return bytes_of(draw, data)

    def take(self, data: bytes) -> str:
        """Have the product read an input; gives its verdict in a word or two.

        Raises:
            ConsiliumError: of :attr:`errors`.
            AssertionError: a verdict that is none.
        """
        raise NotImplementedError


def require_help(error: ConsiliumError) -> None:
    """Assert that an error is one for a person."""
    assert error.what, "an error that says nothing"
    assert error.details.get("do"), f"nothing to do about: {error.what}"
    shown = error.render()
    for word in FOREIGN:
        assert word not in shown, f"{word} in: {re.sub('[0-9]+', 'N', error.what)}"
