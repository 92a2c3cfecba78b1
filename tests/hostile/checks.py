"""The checks of a site, found in its sources, each of which can be switched off.

A check is a condition under which something is refused, or a call of a function that refuses.
Conditions joined by ``or`` and ``and`` are separate checks. To switch one off, the function that
holds it is compiled again with the condition replaced by a constant. The new code replaces the
old code inside the function object, so that every module that imported the function gets it.
"""

from __future__ import annotations
import __future__

import ast
import copy
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FunctionType
from typing import Any, Final

from common.tasks.tasks import TASKS

GUARDED: Final = (
    "client.consent.amendments",
    "client.frozen",
    "client.requests.gates",
    "client.requests.handler",
    "client.requests.proposals",
    "client.requests.round",
    "client.records.approvals",
    "client.consent.decisions",
    "client.records.ledger",
    "client.consent.policy",
    "client.records.receipts",
    "client.sitefile:SiteFile.dataset",
    "common.amendment",
    "common.wire.messages",
    "common.plan",
    "common.privacy.mechanisms",
    "common.study.one_shot",
    "common.study.study_file",
    "common.models.spec:_explain_batch_norm",
    "common.text",
    *(task.__module__ for task in TASKS),
)
"""Modules, and single functions of other modules, in which every check needs a case."""
CALLS: Final = re.compile(r"_?(require|refuse|take|reserve|check|within|demand)(_\w+)?$")
"""Functions that do nothing but refuse."""
DEMANDS: Final = frozenset({"_demand"})
"""Functions that refuse if their first argument is false."""
PREDICATES: Final = frozenset({"_well_formed", "_covers"})
"""Functions whose result is the condition."""
VERIFYING: Final = ("server.study.verify",)
"""The same at the coordinator."""
FAULTS: Final = frozenset(
    {
        "_covers",
        "_dearer_than_stated",
        "understated",
        "_wrong_origin",
        "_wrong_answer",
        "_refused",
        "_wrong_content",
        "_wrong_array",
        "_wrong_votes",
        "_wrong_ledger",
    }
)
"""Functions that return what is wrong instead of raising it."""
CHOOSING: Final = frozenset({"understated"})
"""Functions that return a fault or None in one expression."""
TABLES: Final = frozenset({"told", "holds"})
"""Dictionaries in which each entry is a separate condition."""
FOREGONE: Final = frozenset({"foreseen"})
"""Names of a condition that is decided before it is used."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        module: where it is.
        function: in which function.
        text: its condition as it is written, or the call.
        lines: where a refusal by it comes from, first and last line.
    """

    module: str
    function: str
    text: str
    lines: tuple[int, int]
    switch: _Switch = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name in the table of cases."""
        return f"{self.module}.{self.function}: {self.text}"


@contextmanager
def off(*checks: Check) -> Iterator[None]:
    """Run the body without these checks."""
    places = {(check.module, check.function) for check in checks}
    kept: list[tuple[FunctionType, CodeType]] = []
    try:
        for place in sorted(places):
            switches = [each.switch for each in checks if (each.module, each.function) == place]
            function = _function(*place)
            kept.append((function, function.__code__))
            function.__code__ = _compiled(*place, switches)
        yield
    finally:
        for function, code in kept:
            function.__code__ = code


@dataclass
class _Switch:
    """A node to be replaced in a copy of its function."""

    text: str
    node: ast.AST
    lines: tuple[int, int]
    instead: Any


def checks(places: Iterable[str] = GUARDED) -> tuple[Check, ...]:
    """Every check of some modules, in the order of the source."""
    return tuple(check for place in places for check in _checks_of(*place.split(":")))


def _checks_of(module: str, only: str = "") -> Iterator[Check]:
    for name, function in _functions(_tree(module)):
        if only not in ("", name):
            continue
        for switch in _switches(function):
            yield Check(module, name, switch.text, switch.lines, switch)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def _switches(function: ast.FunctionDef) -> Iterator[_Switch]:
    for node in ast.walk(function):
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
            yield from _decided(node.test, ast.Or, _lines(node), False)
        elif isinstance(node, ast.If) and _falls_through_to_a_refusal(function, node):
            yield from _decided(node.test, ast.And, _lines(function), True)
        elif (
            isinstance(node, ast.If)
            and function.name in FAULTS - CHOOSING
            and _finds_a_fault(node.body[-1])
        ):
            yield from _decided(node.test, ast.Or, _lines(node), False)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.IfExp):
            if function.name in CHOOSING:
                yield from _decided(node.value.test, ast.And, _lines(node), True)
        elif isinstance(node, ast.ExceptHandler) and _refuses(node.body[-1]):
            text = f"except {ast.unparse(node.type)}" if node.type else "except"
            yield _Switch(text, node.body[-1], _lines(node), ast.Raise())
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _call(node, node.value)
        elif isinstance(node, ast.Return) and node.value and function.name in PREDICATES:
            yield from _decided(node.value, ast.And, _lines(node), True)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from _assigned(node)


def _decided(
    test: ast.expr, joint: type[ast.boolop], lines: tuple[int, int], value: bool
) -> Iterator[_Switch]:
    joined = isinstance(test, ast.BoolOp) and isinstance(test.op, joint)
    for operand in test.values if joined and isinstance(test, ast.BoolOp) else [test]:
        if not isinstance(operand, ast.Constant):
            yield _Switch(ast.unparse(operand), operand, lines, ast.Constant(value))


def _falls_through_to_a_refusal(function: ast.FunctionDef, node: ast.If) -> bool:
    ends = isinstance(function.body[-1], ast.Raise) and node in function.body
    return ends and isinstance(node.body[-1], ast.Return) and node.body[-1].value is not None


def _finds_a_fault(statement: ast.stmt) -> bool:
    found = statement.value if isinstance(statement, ast.Return) else None
    if isinstance(found, ast.Constant):
        return found.value is not None
    return isinstance(found, ast.JoinedStr | ast.IfExp)


def _refuses(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Raise) and "Refusal" in ast.unparse(statement)


def _call(statement: ast.Expr, call: ast.Call) -> Iterator[_Switch]:
    name = ast.unparse(call.func).split(".")[-1]
    if name in DEMANDS:
        yield from _decided(call.args[0], ast.And, _lines(statement), True)
    elif CALLS.match(name):
        yield _Switch(ast.unparse(call), statement, _lines(statement), ast.Pass())


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[_Switch]:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    name = target.id if isinstance(target, ast.Name) else ""
    if name in FOREGONE and isinstance(node.value, ast.BoolOp):
        yield from _decided(node.value, ast.And, _lines(node), True)
    if name in TABLES and isinstance(node.value, ast.Dict):
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            text = f"{name}[{ast.unparse(key)}]" if key else name
            if isinstance(value, ast.Tuple):
                same = ast.Tuple([value.elts[0], value.elts[0]], ast.Load())
                yield _Switch(text, value, _lines(value), same)
            else:
                for switch in _decided(value, ast.And, _lines(value), True):
                    yield _Switch(
                        f"{text} {switch.text}", switch.node, switch.lines, switch.instead
                    )


def _lines(node: ast.stmt | ast.expr | ast.ExceptHandler) -> tuple[int, int]:
    return node.lineno, node.end_lineno or node.lineno


class _Replace(ast.NodeTransformer):
    def __init__(self, switches: list[_Switch]) -> None:
        self._instead = {_place(switch.node): switch.instead for switch in switches}

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401 - as ast.NodeTransformer
        instead = self._instead.get(_place(node))
        if instead is None:
            return self.generic_visit(node)
        return ast.copy_location(copy.deepcopy(instead), node)


def _place(node: ast.AST) -> tuple[object, ...]:
    names = ("lineno", "col_offset", "end_lineno", "end_col_offset")
    return type(node), *(getattr(node, name, -1) for name in names)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def _compiled(module: str, name: str, switches: list[_Switch]) -> CodeType:
    first = name.split(".", maxsplit=1)[0]
    whole = next(node for node in _tree(module).body if getattr(node, "name", "") == first)
    changed = _Replace(switches).visit(copy.deepcopy(whole))
    alone = ast.fix_missing_locations(ast.Module([changed], []))
    # Compiled here, the function still needs the future imports of its own module.
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(alone, f"<{name} without a check>", "exec", flags, dont_inherit=True)
    for part in name.split("."):
        code = next(
            each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == part
        )
    return code


def _function(module: str, name: str) -> FunctionType:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    for attribute in ("wrapped", "__func__", "fget", "func", "__wrapped__"):
        found = getattr(found, attribute, found) if not isinstance(found, FunctionType) else found
    assert isinstance(found, FunctionType), f"{module}.{name} is no function"
    return found
