r"""Text from elsewhere made harmless: no character in it controls a terminal or is invisible.

Paths, DICOM values, names in a bundle and the other side's errors may hold anything: an escape
sequence that colours, hides or moves text, a mark that reverses the reading direction, a newline
that begins a line of its own. Each such character is written as its number, ``\x1b`` or
``\u202e``, so that a person sees it.

Text is shown in two ways, and both call this: consoles (:mod:`common.process.console`) and logs
(:mod:`common.process.logs`).
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any, Final

# Cf holds the marks that turn the direction of reading: with them a text shows something other than
# what it says ("Trojan Source", Boucher and Anderson 2021).
UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, reading-direction marks and invisible text."""
JOINERS: Final = frozenset("\u200c\u200d")
"""Not seen either, and needed to spell words in several scripts."""
LAYOUT: Final = frozenset("\n\t")
"""What text of several lines is laid out with."""


def is_steering(character: str) -> bool:
    """Whether one character must not be shown as it is."""
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def visible(text: str, *, keep: frozenset[str] = frozenset()) -> str:
    """Text in which every character that is not seen is written as its number.

    Args:
        text: from wherever; lone surrogates, as of a path that is no UTF-8, are numbers too.
        keep: characters that stay; by default none, so that the text is one line.
    """
    # Nearly every text: each value of each log event comes through here.
    if text.isprintable():
        return text
    return "".join(
        _number(each) if is_steering(each) and each not in keep else each for each in text
    )


def _number(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_in(value: Any) -> Any:  # noqa: ANN401 - whatever a log event holds
    """The same with every text in a value of texts, lists and mappings; one line each."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible_in(key): visible_in(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [visible_in(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return visible(str(value))


def visible_json(value: Any, *, indent: int | None = None) -> str:  # noqa: ANN401 - what JSON can hold
    """JSON with the same meaning for a program, and harmless for a terminal."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(_escaped(each) if is_steering(each) and each != "\n" else each for each in text)


def _escaped(character: str) -> str:
    """A character as JSON writes it by number; DEL and C1 it would leave as they are."""
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(character)[1:-1]
