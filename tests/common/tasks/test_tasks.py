"""A task is one file, and nothing outside decides by its kind."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from client.training.targets import TARGETS
from common.tasks.tasks import KINDS, TASKS
from tests.common.studies import task_of

PACKAGES = ("client", "common", "server", "simulations")
ROOM = "common.tasks"
MOST_LINES = 400


def outside(root: Path) -> list[Path]:
    """Every module of the packages that is no task."""
    found = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return [path for path in found if root / "common" / "tasks" not in path.parents]


def deciding(tree: ast.AST) -> Iterator[str]:
    """What in a module knows one task from another: its kind's name, its module or its class."""
    classes = {task.__name__ for task in TASKS}
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documented and node.value in KINDS:
            yield f"{node.lineno}: {node.value!r}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ROOM):
            own = {f"{ROOM}.{kind}" for kind in KINDS}
            if node.module in own or classes & {each.name for each in node.names}:
                yield f"{node.lineno}: from {node.module}"


def test_nothing_outside_decides_by_the_kind_of_a_task(root: Path) -> None:
    found = {
        str(path.relative_to(root)): [*deciding(ast.parse(path.read_text()))]
        for path in outside(root)
    }
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "written",
    [
        'if task.kind == "{kind}": ...',
        'match task.kind:\n    case "{kind}": ...',
        'found = {{"{kind}": 1}}[task.kind]',
        "from common.tasks.{kind} import *",
    ],
)
def test_a_decision_is_seen(written: str) -> None:
    assert list(deciding(ast.parse(written.format(kind=KINDS[-1]))))


def test_a_task_is_one_file_of_few_lines(root: Path) -> None:
    files = {task: root / Path(*task.__module__.split(".")).with_suffix(".py") for task in TASKS}
    lines = {task.__name__: len(path.read_text().splitlines()) for task, path in files.items()}

    assert len(set(files.values())) == len(TASKS)
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_every_file_of_a_task_is_in_the_list(root: Path) -> None:
    files = {path.stem for path in (root / "common" / "tasks").glob("*.py")}
    assert files - {"__init__", "task", "tasks"} == {
        task.__module__.rpartition(".")[2] for task in TASKS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_exact_figures_hold_no_more_than_one_patients_outputs_at_once(kind: str) -> None:
    """All of a test set's together, a number for each pixel of each image, fit in no memory."""
    task = task_of(kind)
    heads, size, held = task.heads(), (8, 8), list[weakref.ref[torch.Tensor]]()
    targets = TARGETS[task.target].made_up(task, 6, 3, size)

    def patients() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for target in targets:
            outputs = torch.randn(3, heads.outputs, *(size if heads.dense else ()))
            held.append(weakref.ref(outputs))
            yield outputs, target if target.ndim else target.expand(3)
            del outputs
            assert all(each() is None for each in held[:-1])

    assert task.exact(patients()).patients.value == pytest.approx(6)
