"""Which test fails first, and which functions of a module each test enters."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import Final

import pytest

Seen = dict[str, tuple[float, list[str]]]
"""By test: how long it took, and the functions that it entered."""
_NAME: Final = "_entered"
"""Of a set among Python's own names: a module that is watched can be imported in any process."""


def announcing(source: str) -> str:
    """A module whose every function says that it is entered."""
    tree = ast.parse(source)
    _announce(tree, ())
    return ast.unparse(ast.fix_missing_locations(tree))


def _announce(node: ast.AST, names: tuple[str, ...]) -> None:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            within = (*names, inner.name)
            _announce(inner, within)
            if not isinstance(inner, ast.ClassDef):
                name = ".".join(within)
                says = f"__import__('builtins').__dict__.get({_NAME!r}, set()).add({name!r})"
                inner.body.insert(0, ast.parse(says).body[0])


class FirstFailure:
    """Keeps the name of the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest when a test was set up, has run, was taken down."""
        if report.failed and not self.name:
            self.name = report.nodeid


class Watch:
    """Keeps which functions of a module that announces them each test enters, in this process."""

    def __init__(self) -> None:
        self.seen: Seen = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Called by pytest around each test."""
        entered: set[str] = set()
        setattr(builtins, _NAME, entered)
        yield
        took, _ = self.seen.get(item.nodeid, (0.0, []))
        self.seen[item.nodeid] = took, sorted(entered)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest when a test was set up, has run, was taken down."""
        took, entered = self.seen.get(report.nodeid, (0.0, []))
        self.seen[report.nodeid] = took + report.duration, entered
