"""The tool that looks for tests that cannot fail: what it changes, and what it makes of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.mutants.mutations import by_ours
from tests.mutants.running import PACKAGES, Copy
from tests.mutants.survivors import explained

LIMIT = """
def within(amount: int, most: int) -> bool:
    return amount <= most

def never() -> None:
    pass
"""
TEST = """
from client.limit import within

def test_less_is_within():
    assert within(1, 2)

def test_more_is_not():
    assert not within(3, 2)
"""


def test_each_pair_is_a_module_and_tests_that_there_are(root: Path) -> None:
    settings = tomllib.loads((root / "tests" / "mutants" / "pairs.toml").read_text())
    for module, tests in settings["tests"].items():
        assert (root / f"{module}.py").is_file()
        assert tests
        assert all((root / test).is_file() for test in tests)
    assert {module for module, *_ in explained()} <= set(settings["tests"])


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("os.fsync(file)", ["pass"]),
        ("log.info('x')", []),
        (
            "with store.transaction():\n    f()",
            ["if True:\n    f()", "with store.transaction():\n    pass"],
        ),
        ("x = [a for a in b if c if d]", ["x = [a for a in b if d]", "x = [a for a in b if c]"]),
        (
            "f('SELECT a FROM b WHERE c = ?')",
            ["pass", "f('SELECT a FROM b WHERE c != ?')"],
        ),
        ("x += 1", ["pass"]),
        ("if a:\n    raise E", ["if a:\n    pass"]),
    ],
)
def test_what_is_left_out_or_turned_round(source: str, mutants: list[str]) -> None:
    assert sorted(by_ours(source)) == sorted(mutants)


@pytest.mark.long
def test_a_change_that_a_test_notices_is_told_from_one_that_none_does(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in PACKAGES:
        (root / name).mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        (root / name).touch()
    (root / "client" / "__init__.py").touch()
    (root / "client" / "limit.py").write_text(LIMIT)
    (root / "tests" / "test_limit.py").write_text(TEST)
    copy = Copy(root, tmp_path / "copy", "client/limit", ["tests/test_limit.py"])
    assert copy.baseline().passed
    differs = copy.run(LIMIT.replace("<=", "!="), "within")
    assert (differs.passed, differs.by) == (False, "tests/test_limit.py::test_more_is_not")
    assert not copy.run(LIMIT.replace("<=", ">"), "within").passed
    assert copy.run(LIMIT.replace("<=", "<"), "within").passed
    assert copy.run(LIMIT.replace("pass", "return"), "never").passed
    assert copy.run("raise ImportError", "").by == "an import"
    assert (root / "client" / "limit.py").read_text() == LIMIT
