"""Text is shown, and documents are read, in one place each: nothing goes past it.

What a place holds back, it holds back for those who come through it. So that is looked at in
the sources: who prints, who makes a console, who parses.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES: Final = ("client", "common", "server", "simulations")
SHOWING: Final = {
    "print",
    "input",
    "Console",
    "typer.echo",
    "typer.secho",
    "typer.prompt",
    "click.echo",
    "traceback.print_exc",
    "traceback.print_exception",
    "sys.stdout.write",
    "sys.stderr.write",
}
PARSING: Final = {"json.loads", "json.load", "tomllib.loads", "tomllib.load", "json.JSONDecoder"}
EXCEPT: Final = {
    ("common/process/console.py", "typer.echo"): "show_json, which escapes",
    (
        "server/superlink/superlink.py",
        "sys.stderr.write",
    ): "escapes what a process said, line by line",
    ("server/superlink/launcher.py", "sys.stderr.write"): "is that process",
    ("common/documents.py", "tomllib.loads"): "the place itself",
    ("common/wire/enrolment.py", "json.loads"): "looks for keys that stand twice, after read_json",
    ("client/records/chain.py", "json.JSONDecoder"): "a part of a line, and foresees any depth",
}


def calls(source: str) -> Iterator[str]:
    """The dotted names that a source calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def past(root: Path, names: set[str]) -> set[tuple[str, str]]:
    """Where one of these is called: file and name."""
    return {
        (str(path.relative_to(root)), name)
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        for name in calls(path.read_text(encoding="utf-8"))
        if name in names
    }


@pytest.mark.parametrize("names", [SHOWING, PARSING], ids=["showing", "parsing"])
def test_nothing_goes_past_the_one_place(root: Path, names: set[str]) -> None:
    allowed = {(file, name) for file, name in EXCEPT if name in names}
    assert past(root, names) == allowed


def test_the_check_finds_a_call(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "client" / "late.py").write_text("def f(x):\n    return [json.loads(x)]\n")
    assert past(tmp_path, PARSING) == {("client/late.py", "json.loads")}
