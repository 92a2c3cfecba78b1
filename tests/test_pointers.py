"""What the documents point at exists: files, folders, modules, names in them, and each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = ("*.md", "docs/*.md", "tests/*/*.md")
TOP = "client|common|server|simulations|tests|benchmarks|docs|docker|systemd"
PLACE = re.compile(rf"(?<![\w/.-])(?:\.\./)?((?:{TOP})/[\w./-]*\w/?)(?:: (\w+))?")
"""A file or folder from the root, and a name in it: ``server/study/rounds.py: run_rounds``."""
MODULE = re.compile(r"(?<![\w/.-])((?:client|common|server|simulations|tests)(?:\.\w+)+)")
"""A module, or something in it, by its dotted name."""
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
WRITTEN = ("docs/api",)
"""What a command makes, and a clone does not have."""


def missing(root: Path) -> list[str]:
    """``document: pointer`` for each pointer to nothing."""
    return [
        f"{path.relative_to(root)}: {pointer}"
        for pattern in DOCUMENTS
        for path in sorted(root.glob(pattern))
        for pointer in _missing_in(path, root)
    ]


def _missing_in(document: Path, root: Path) -> Iterator[str]:
    text = document.read_text()
    for place, name in PLACE.findall(text):
        found = next(
            (root / each for each in (place, f"{place}.py") if (root / each).exists()), None
        )
        if found is None and not place.startswith(WRITTEN):
            yield place
        elif found is not None and name and name not in found.read_text():
            yield f"{place}: {name}"
    yield from (dotted for dotted in MODULE.findall(text) if not _is_module(dotted, root))
    for target, heading in LINK.findall(text):
        linked = document.parent / target if target else document
        if not linked.exists() or (heading and heading not in _headings(linked.read_text())):
            yield f"{target}#{heading}" if heading else target


def _is_module(dotted: str, root: Path) -> bool:
    """Whether it is a package, a module, or a name that stands in one."""
    *above, last = dotted.split(".")
    place = root.joinpath(*above)
    if (place / last).is_dir() or (place / f"{last}.py").exists():
        return True
    module = place.with_suffix(".py")
    return module.exists() and re.search(rf"\b{last}\b", module.read_text()) is not None


def _headings(text: str) -> set[str]:
    """The anchors of a document, as GitHub makes them from its headings."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def test_what_the_documents_point_at_exists(root: Path) -> None:
    assert missing(root) == []


PLANTED = """
# A title: two words

`client/one.py`, `client/one.py: here`, `client/one`, `client.one`, `client.one.here`, `client/`,
[one](client/one.py), [title](#a-title-two-words), [web](https://example.org).

`client/two.py`, `client/one.py: gone`, `client.two`, `client.one.gone`, [no](client/no.md),
[nowhere](#nowhere).
"""


def test_the_check_finds_pointers_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "one.py").write_text("here = 1\n")
    (tmp_path / "README.md").write_text(PLANTED)

    assert missing(tmp_path) == [
        f"README.md: {pointer}"
        for pointer in (
            *("client/two.py", "client/one.py: gone", "client/no.md"),
            *("client.two", "client.one.gone", "client/no.md", "#nowhere"),
        )
    ]
