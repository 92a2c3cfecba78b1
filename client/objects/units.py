"""Units of measurement in UCUM (the Unified Code for Units of Measure, case sensitive form).

What a study calls a unit is UCUM if it is a term of UCUM's grammar over common atoms; else it is
put in curly braces, which UCUM allows for what is no unit of its own (UCUM, section 6).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_METRIC: Final = (
    *("m", "g", "s", "rad", "K", "C", "cd", "L", "l", "mol", "Hz", "N", "Pa", "J", "W", "A", "V"),
    *("F", "Ohm", "S", "Wb", "T", "H", "lm", "lx", "Bq", "Gy", "Sv", "Cel", "cal", "eq", "osm"),
    *("U", "kat", "bar", "u", "eV", "t", "Ci", r"m\[Hg\]", r"m\[H2O\]", r"\[iU\]", r"\[IU\]"),
)
"""Atoms that may have a prefix (UCUM, tables 2 to 5)."""
_OTHER: Final = (
    *("%", r"\[ppth\]", r"\[ppm\]", r"\[ppb\]", "min", "h", "d", "wk", "mo", "a", "deg", "'", "''"),
    *(r"\[degF\]", r"\[in_i\]", r"\[ft_i\]", r"\[lb_av\]", r"\[pH\]", r"\[diop\]", r"\[hnsf'U\]"),
    *(r"\[arb'U\]", r"10\*", r"10\^", r"\[CFU\]"),
)
_PREFIX: Final = "(?:Y|Z|E|P|T|G|M|k|h|da|d|c|m|u|n|p|f|a|z|y)"
_NOTE: Final = r"\{[!-z|~]*\}"
_ATOM: Final = f"(?:{_PREFIX}?(?:{'|'.join(_METRIC)})|{'|'.join(_OTHER)})"
_COMPONENT: Final = rf"(?:{_ATOM}(?:[+-]?\d+)?(?:{_NOTE})?|{_NOTE}|\d+(?:{_NOTE})?)"
_TERM: Final = re.compile(rf"/?{_COMPONENT}(?:[./]{_COMPONENT})*")
_LONGEST: Final = 60
"""Characters of a note in braces, so that code and meaning fit their VRs."""


def ucum(unit: str) -> str:
    """The UCUM code of a unit.

    Args:
        unit: in UCUM, or in words; empty for none.

    Returns:
        ``"1"`` for none, the unit itself where it is UCUM, else its words in curly braces.
    """
    if not unit.strip():
        return "1"
    if _TERM.fullmatch(unit):
        return unit
    # A note has printable ASCII characters, but neither blanks nor braces (UCUM, section 6).
    words = unicodedata.normalize("NFKD", unit).encode("ascii", "ignore").decode()
    words = re.sub(r"[^!-z|~]+", "_", words).strip("_")[:_LONGEST]
    return f"{{{words or 'unit'}}}"
