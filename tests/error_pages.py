"""The guides' pages "What went wrong": every error of the program, in its own words.

``make pages`` writes them; a test holds them against the code. They follow from the calls that
make the errors, so no error is left out and no text is older than the program.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Final

import common.errors
from common.errors import ConsiliumError, Refusal

ANY_FILE: Final = "A file or a folder cannot be used"
"""Heads the errors about files of any kind, whose class is chosen by the caller."""
GAP: Final = "…"
"""Stands for what differs from one case to another."""
PARTS: Final = {"found": "found", "wanted": "wanted", "remedy": "do"}
"""Keywords of an error that are shown, and how an error shows them."""
PAGES: Final = {
    "site": ("at a hospital", ("client", "common"), "site.md"),
    "coordinator": ("at the coordinator", ("server", "common"), "coordinator.md"),
    "simulations": ("in a simulation", ("simulations", "client/data", "common"), "../README.md"),
}
"""A page of each guide: what it is about, the code that its errors come from, and the guide."""
HEAD: Final = """# What went wrong {where}

*This page is written by `make pages` from the program's own errors.*

A command that cannot go on says what is wrong, then `where:`, `found:`, `wanted:` and `do:`. Look
for its first line here; {gap} means a text that differs, such as a name or a number. Such a command
ends with exit code 2 and has changed nothing that it does not name. An error that is called "a
defect in Consilium" is not your mistake: please report it. The guide: [{guide}]({guide}).
"""


@dataclass(frozen=True, order=True)
class Entry:
    """An error as the program words it.

    Attributes:
        kind: its class.
        what: its first line.
        parts: what it shows below, name and text.
    """

    kind: str
    what: str
    parts: tuple[tuple[str, str], ...]


def entries(root: Path, folder: str) -> Iterator[Entry]:
    """Every error that the modules in a folder make."""
    for path in sorted((root / folder).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if calls and "errors import" in path.read_text():
            module = importlib.import_module(name)
            yield from filter(None, map(partial(_entry, module, tree), calls))


def _entry(module: ModuleType, tree: ast.Module, call: ast.Call) -> Entry | None:
    name = _class_around(tree, call) if isinstance(call.func, ast.Attribute) else _name(call.func)
    kind = ConsiliumError if _given(tree, call.func) else getattr(module, name, None)
    keywords = {each.arg: each.value for each in call.keywords if each.arg}
    if not (isinstance(kind, type) and issubclass(kind, ConsiliumError)):
        # A function that makes the error of its caller's words.
        kind = _made_by(kind) if "remedy" in keywords else None
    if kind is None:
        return None
    words = [_text(module, each) for each in call.args]
    words = [each for each in words if " " in each.replace(GAP, "").strip()]
    if not words:
        return None
    code = _code(call.args[0]) if issubclass(kind, Refusal) else []
    parts = [
        (shown, _text(module, keywords[key])) for key, shown in PARTS.items() if key in keywords
    ]
    kept = [(shown, text) for shown, text in parts if text.replace(GAP, "").strip(" ,;:.()")]
    return Entry(_kind(kind), ": ".join([*code, words[0]]), tuple(kept))


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _code(node: ast.expr) -> list[str]:
    """A refusal's code as a coordinator sees it."""
    return [f"`{node.attr.lower().replace('_', '-')}`"] if isinstance(node, ast.Attribute) else []


def _class_around(tree: ast.Module, call: ast.Call) -> str:
    """The class whose own error ``super().__init__`` makes."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and call in ast.walk(node):
                return node.name
    return ""


def _given(tree: ast.Module, function: ast.expr) -> bool:
    """Whether this is a class of errors that the caller chose: an argument or an attribute."""
    name = function.attr if isinstance(function, ast.Attribute) else _name(function)
    return name in _chosen(tree)


@lru_cache(maxsize=1)
def _chosen(tree: ast.Module) -> set[str]:
    return {
        node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.arg | ast.AnnAssign)
        and isinstance(node.annotation, ast.Subscript)
        and ast.unparse(node.annotation) == "type[ConsiliumError]"
    }


def _of_system() -> Iterator[Entry]:
    """What the operating system refuses, which is said of any file and folder."""
    for what, remedy in {*common.errors._OF_SYSTEM.values(), common.errors._ABSENT}:  # noqa: SLF001
        yield Entry(ConsiliumError.__name__, what, (("do", " ".join(remedy.split())),))


def _made_by(function: object) -> type[ConsiliumError] | None:
    """The error that a function gives, or the method ``error`` of what it makes: as annotated."""
    giving = getattr(function, "error", function)
    returned = getattr(giving, "__annotations__", {}).get("return", "")
    found = getattr(common.errors, str(returned), None)
    return found if isinstance(found, type) and issubclass(found, ConsiliumError) else None


def _kind(kind: type[ConsiliumError]) -> str:
    """The class in ``common/errors.py`` that an error is one of."""
    return next(each.__name__ for each in kind.__mro__ if hasattr(common.errors, each.__name__))


def _text(module: ModuleType, node: ast.expr) -> str:
    """The words of an expression, with gaps for what only a run knows."""
    match node:
        case ast.Constant(value=str(text)):
            words = text
        case ast.JoinedStr(values=values):
            words = "".join(_text(module, each) for each in values)
        case ast.FormattedValue(value=value):
            words = _text(module, value)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            words = _text(module, left) + _text(module, right)
        case ast.IfExp(body=body, orelse=orelse):
            both = (_text(module, each) for each in (body, orelse))
            words = " / ".join(each for each in both if each not in ("", GAP)) or GAP
        case ast.Name(id=name) if isinstance(getattr(module, name, None), str | int):
            words = str(getattr(module, name))
        case _:
            words = GAP
    return re.sub(rf"{GAP}+", GAP, " ".join(words.split()) if words.strip() == words else words)


def page(root: Path, name: str) -> str:
    """A page in Markdown."""
    where, folders, guide = PAGES[name]
    found: defaultdict[str, set[Entry]] = defaultdict(set)
    for folder in folders:
        for entry in entries(root, folder):
            found[entry.kind].add(entry)
    found[ConsiliumError.__name__].update(_of_system())
    lines = [HEAD.format(where=where, gap=GAP, guide=guide)]
    for kind, about in _kinds():
        if found[kind]:
            lines += [f"## {about}", ""]
        for entry in sorted(
            found[kind], key=lambda each: (each.what.strip('`"…').casefold(), each)
        ):
            lines += [f"**{_escaped(entry.what)}**", ""]
            lines += [f"- {part}: {_escaped(text)}" for part, text in entry.parts]
            lines += [""] if entry.parts else []
    return "\n".join(lines).rstrip() + "\n"


def _kinds() -> Iterator[tuple[str, str]]:
    for name, kind in vars(common.errors).items():
        if isinstance(kind, type) and issubclass(kind, ConsiliumError):
            about = str(kind.__doc__).split("\n", maxsplit=1)[0].removesuffix(".")
            yield name, ANY_FILE if kind is ConsiliumError else about


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)


def main(root: Path) -> None:
    """Write every page."""
    for name in PAGES:
        (root / "docs" / f"{name}-errors.md").write_text(page(root, name))


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent)
