"""Colours that readers with any common colour blindness can tell apart (Okabe and Ito 2008)."""

from __future__ import annotations

from typing import Final

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""As HTML writes them; after the sixth they begin again."""


def colour_of(number: int) -> str:
    """The colour of a mask's k-th class, which is the same on every page and in every object."""
    return COLOURS[(int(number) - 1) % len(COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
