"""What a user reads is in everyday English: none of the words that read like an old book.

A hospital's administrator reads it in a hurry, and often not in a first language. Checked is every
string of the packages that is no docstring (so every error, screen and event line), the reports'
templates, the comments of the shipped studies, and the documents.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("client", "common", "server", "simulations")
TEXTS = (
    *("*.md", "docs/*.md"),
    *("client/reasons/templates/*", "simulations/templates/*", "simulations/studies/*.toml"),
)

AVOIDED = {
    "whoever": "anyone who, every",
    "mend|mends|mended|mending": "fix, correct",
    r"(?:bring|brings|bringing|brought)(?: \w+)? back": "restore",
    "stands": "is, is listed in",
    "gone without": "left out",
    "whatever it is": "say which",
    "anew": "again, new",
    "beforehand": "in advance",
    "for ever|for good": "permanently",
    "lest": "so that ... not",
    "nobody else's": "say whose",
    "of its own accord": "by itself",
    "stand in": "are listed in",
    "thereof": "of it",
}
"""What to look for, and what to write in its place."""
_AVOIDED = re.compile(rf"\b(?:{'|'.join(AVOIDED)})\b", re.IGNORECASE)


def found_in(text: str) -> list[tuple[int, str]]:
    """Line and word of all that is to be avoided; a line break counts as a space."""
    flat = re.sub(r"\s", " ", text)
    return [
        (text.count("\n", 0, match.start()) + 1, match[0].lower())
        for match in _AVOIDED.finditer(flat)
    ]


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is no docstring, of a module or of an attribute."""
    tree = ast.parse(source)
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            match node.value:
                case str(text):
                    yield node.lineno, text


def avoided(root: Path) -> list[str]:
    """``file:line: word``; for a string of several lines, the line on which it begins."""
    in_code = [
        f"{path.relative_to(root)}:{line}: {word}"
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        for line, text in strings(path.read_text())
        for _, word in found_in(text)
    ]
    in_texts = [
        f"{path.relative_to(root)}:{line}: {word}"
        for pattern in TEXTS
        for path in sorted(root.glob(pattern))
        for line, word in found_in(path.read_text())
    ]
    return in_code + in_texts


def test_nothing_that_a_user_reads_has_a_word_of_an_old_book(root: Path) -> None:
    assert avoided(root) == []


PLANTED = {
    "client/one.py": '"""Whoever reads this."""\n\n\nNAME = 1\n"""It stands here."""\n',
    "common/two.py": 'def f(x):\n    raise ValueError(f"{x}: mend what stands there")\n',
    "server/three.py": 'TEXT = """first\nbring it\nback and amend"""\nOTHER = b"whoever"\n',
    "README.md": "A recommendation withstands.\nWhoever is gone\nwithout.\n",
    "simulations/templates/page.html.j2": "<p>made anew</p>\n",
    "simulations/studies/small.toml": "# whatever it is\n",
}


def test_the_check_finds_words_where_a_user_reads_them(tmp_path: Path) -> None:
    for name, text in PLANTED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert avoided(tmp_path) == [
        "common/two.py:2: mend",
        "common/two.py:2: stands",
        "server/three.py:1: bring it back",
        "README.md:2: whoever",
        "README.md:2: gone without",
        "simulations/templates/page.html.j2:1: anew",
        "simulations/studies/small.toml:1: whatever it is",
    ]


@pytest.mark.parametrize("word", ["amendment", "recommended", "standard", "withstands", "manewver"])
def test_the_check_looks_for_whole_words(word: str) -> None:
    assert found_in(word) == []
