"""How hospitals and their spreadsheets spell the same cell, column or label.

Everything here is a function of one cell alone: what is in the row of one patient must change
nothing in how the rows of others are read.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Final

from client.data.pseudonyms import normal

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNSEEN: Final = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"
_EDGES: Final = "\0" + _UNSEEN + "".join(filter(str.isspace, map(chr, range(0x3001))))
"""No-break spaces, byte order marks, the direction mark before a path copied from Windows: cells
that look alike must be alike."""
_NOT_IN_NAMES: Final = str.maketrans("", "", string.punctuation + _EDGES)
_FORMULA: Final = re.compile(r'="(.*)"', re.DOTALL)
_WHOLE: Final = re.compile(r"([+-]?\d+)[.,](?!000$)0+")
"""Not ``1,000``: that may be a thousand."""
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOST: Final = 1e9
"""Of a number: what is larger is an identifier, and has no exact 32-bit float."""


def clean(text: str) -> str:
    """Text without blanks and characters that nobody sees at its ends, in composed Unicode."""
    return normal(text.strip(_EDGES))


def unquoted(cell: str) -> str:
    """A cell that a spreadsheet was to keep as text, ``="00123"``, as that text."""
    formula = _FORMULA.fullmatch(clean(cell))
    return clean(formula[1] if formula else cell)


def simple_column(name: str) -> str:
    """The name of a column without case, blanks and punctuation: ``Patient ID``, ``patient_id``."""
    return clean(name).casefold().translate(_NOT_IN_NAMES)


def simple_label(label: str) -> str:
    """A label without case and repeated blanks, and a whole number without ``.0``."""
    text = " ".join(clean(label).split()).casefold()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def columns_called(header: Sequence[str], name: str) -> list[int]:
    """The places of the columns of a name; spelled in another way only if none has it exactly."""
    exact = [place for place, each in enumerate(header) if each == name]
    simple = simple_column(name)
    return exact or [
        place for place, each in enumerate(header) if simple and simple_column(each) == simple
    ]


def number_of(label: str) -> float | None:
    """The number that a label is; None if it is none, or could be two (``1,000``)."""
    if _NUMBER.fullmatch(label) is None:
        return None
    value = float(label)
    return value if abs(value) <= _MOST else None


def class_of(label: str, classes: Sequence[str]) -> int | None:
    """The class that a label is, as an index; None if it is none, or could be two."""
    if label in classes:
        return classes.index(label)
    # Classes that differ in case alone are left apart: then only the exact spelling counts.
    alike = [i for i, each in enumerate(classes) if simple_label(each) == simple_label(label)]
    return alike[0] if len(alike) == 1 else None
