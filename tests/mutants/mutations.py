"""What is changed in a module, one thing at a time.

Most operators are cosmic-ray's: comparisons, arithmetic, booleans, numbers, loops, conditions,
what is caught. Ours add what a guarantee is lost by without a wrong number anywhere: a call that is
left out, a ``with`` that is gone, a condition of a comprehension, and one within SQL.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Final

COSMIC_RAY: Final = (
    *("ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq"),
    *("ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"),
    *("ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_Lt_GtE"),
    *("ReplaceComparisonOperator_LtE_Lt", "ReplaceComparisonOperator_LtE_Gt"),
    *("ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_Gt_LtE"),
    *("ReplaceComparisonOperator_GtE_Gt", "ReplaceComparisonOperator_GtE_Lt"),
    *("ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add"),
    *("ReplaceBinaryOperator_Mul_Div", "ReplaceBinaryOperator_Div_Mul"),
    *("ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_Mul"),
    *("ReplaceBinaryOperator_Pow_Mul", "ReplaceBinaryOperator_BitXor_BitOr"),
    *("ReplaceBinaryOperator_LShift_RShift", "ReplaceBinaryOperator_RShift_LShift"),
    *("ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr"),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
    *("AddNot", "ExceptionReplacer", "NumberReplacer"),
)
"""Of each operator of the language the nearest other one, and the opposite; not all eleven."""
SQL: Final = re.compile(r"\b(SELECT|UPDATE|DELETE|INSERT|WHERE|AND|ORDER BY)\b")
SQL_SWAPS: Final = (
    *((r" <= ", " < "), (r" >= ", " > "), (r" < ", " <= "), (r" > ", " >= ")),
    *((r" != ", " = "), (r" = ", " != "), (r"\bIS NULL", "IS NOT NULL")),
    *((r"\bIS NOT NULL", "IS NULL"), (r"\bAND\b", "OR"), (r"\bNOT EXISTS", "EXISTS")),
    *((r"\bmax\(", "min("), (r"\bsum\(", "count("), (r"OR IGNORE ", ""), (r"OR REPLACE ", "")),
)
_OPPOSITES: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_SHOWN: Final = 50
"""How much of a line is shown on either side of what changes."""
_UNSEEN: Final = frozenset({"log"})
"""What is called on these is said to people alone."""


@dataclass(frozen=True)
class Mutant:
    """One change to a module.

    Attributes:
        module: path from the root, without its ending.
        where: the function that it is in, or nothing.
        before: the lines that are changed, without their indent and most of what stays.
        after: the same lines after it.
        source: the whole module after it.
    """

    module: str
    where: str
    before: str
    after: str
    source: str = field(repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names it, wherever its line has moved to."""
        return self.module, self.where, self.before, self.after

    def __str__(self) -> str:
        return f"{self.module}: {self.where}\n    - {self.before}\n    + {self.after}"


def mutants_of(module: str, source: str) -> list[Mutant]:
    """All mutants of a module that differ from it, and from one another, in what they do.

    Comments are gone and lines are as Python writes them, so that how a module is laid out has no
    part in what its mutants are called.
    """
    plain = ast.unparse(ast.parse(source))
    seen = {_meaning(plain)}
    found = []
    for changed in (*by_cosmic_ray(plain), *by_ours(plain)):
        try:
            meaning = _meaning(changed)
        except SyntaxError:
            continue
        if meaning not in seen:
            seen.add(meaning)
            found.append(_mutant(module, plain, ast.unparse(ast.parse(changed))))
    return sorted(found, key=lambda each: (each.where, each.before, each.after))


def by_cosmic_ray(source: str) -> Iterator[str]:
    """A module after each change by one of cosmic-ray's operators."""
    # Not with the module: a test reads the list of survivors where cosmic-ray is not installed.
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    for name in COSMIC_RAY:
        operator = get_operator(f"core/{name}")()
        for occurrence in count():
            changed = mutate_code(source, operator, occurrence)
            if changed is None:
                break
            yield str(changed)


def by_ours(source: str) -> Iterator[str]:
    """A module after each change by one of ours."""
    for number, node in enumerate(ast.walk(ast.parse(source))):
        for instead in _instead_of(node):
            tree = ast.parse(source)
            yield ast.unparse(_Replace(_at(tree, number), instead).visit(tree))


def _instead_of(node: ast.AST) -> Iterator[ast.AST]:
    """What one of our operators puts in the place of a node."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if ast.unparse(node.value.func).split(".")[0] not in _UNSEEN:
            yield ast.Pass()
    elif isinstance(node, ast.Raise | ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.With) and all(item.optional_vars is None for item in node.items):
        yield ast.If(ast.Constant(True), node.body, [])
    elif isinstance(node, ast.comprehension) and node.ifs:
        for left_out in node.ifs:
            kept = [each for each in node.ifs if each is not left_out]
            yield ast.comprehension(node.target, node.iter, kept, node.is_async)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value):
        for old, new in SQL_SWAPS:
            for match in re.finditer(old, node.value):
                yield ast.Constant(node.value[: match.start()] + new + node.value[match.end() :])


def _at(tree: ast.Module, number: int) -> ast.AST:
    return next(islice(ast.walk(tree), number, None))


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, instead: ast.AST) -> None:
        self._node, self._instead = node, instead

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401 - as ast.NodeTransformer
        if node is self._node:
            return ast.copy_location(self._instead, node)
        return self.generic_visit(node)


class _Plain(ast.NodeTransformer):
    """Without what a program does not do: docstrings, types, decorators, ``*``, ``strict``.

    What is negated twice, or a comparison that is negated, is written as it would be without.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns, node.decorator_list = None, []
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        # Which of them must be named is the caller's comfort.
        node.args, node.posonlyargs = [*node.posonlyargs, *node.args, *node.kwonlyargs], []
        node.defaults += [each for each in node.kw_defaults if each is not None]
        node.kwonlyargs, node.kw_defaults = [], []
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        # Whether two sequences are of one length is asked where they are by construction.
        return (
            ast.keyword("strict", ast.Constant(1))
            if node.arg == "strict"
            else self.generic_visit(node)
        )

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inside = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inside, ast.UnaryOp):
            return inside.operand if isinstance(inside.op, ast.Not) else node
        if isinstance(node.op, ast.Not) and isinstance(inside, ast.Compare):
            opposite = _OPPOSITES.get(type(inside.ops[0])) if len(inside.ops) == 1 else None
            return ast.Compare(inside.left, [opposite()], inside.comparators) if opposite else node
        return node


def _meaning(source: str) -> str:
    return ast.dump(_Plain().visit(ast.parse(source)))


def _mutant(module: str, plain: str, changed: str) -> Mutant:
    old, new = plain.splitlines(), changed.splitlines()
    first = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(old))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    places = [each for each in matcher.get_opcodes() if each[0] != "equal"]
    (_, begin, _, start, _), (_, _, end, _, stop) = places[0], places[-1]
    before = " / ".join(line.strip() for line in old[begin:end])
    after = " / ".join(line.strip() for line in new[start:stop])
    return Mutant(module, _function_at(plain, first + 1), *_shortened(before, after), changed)


def _shortened(before: str, after: str) -> tuple[str, str]:
    """Two lines, without most of what they have in common."""
    head = _alike(before, after)
    tail = _alike(before[head:][::-1], after[head:][::-1])
    cut, rest = max(head - _SHOWN, 0), max(tail - _SHOWN, 0)
    ends = ("…" if cut else "", "…" if rest else "")
    short = [line[cut : len(line) - rest].join(ends) for line in (before, after)]
    return short[0], short[1]


def _alike(one: str, other: str) -> int:
    """How many characters two lines begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _function_at(source: str, line: int) -> str:
    """The innermost named thing that a line is in."""
    names: list[str] = []
    nodes: list[ast.AST] = list(ast.parse(source).body)
    while nodes:
        node = nodes.pop(0)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if node.lineno <= line <= (node.end_lineno or line):
            names.append(node.name)
            nodes = list(node.body)
    return ".".join(names)
