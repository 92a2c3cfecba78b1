"""Flower and Ray are told to stay off the network before they are imported, wherever it begins."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("client", "common", "server", "simulations")
PROGRAM = """
import importlib, os, sys
class Looks:
    def find_spec(self, name, path, target=None):
        if name in ("flwr", "ray"):
            told = [os.environ.get(each) for each in (
                "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED"
            )]
            print(name, told)
sys.meta_path.insert(0, Looks())
importlib.import_module(sys.argv[1])
"""


def importers(root: Path) -> list[str]:
    """The modules that import something of Flower's at their top level."""
    return [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        if any(
            isinstance(node, ast.ImportFrom) and str(node.module).startswith("flwr")
            for node in ast.parse(path.read_text()).body
        )
    ]


def test_no_module_imports_flower_before_it_was_told_to_be_quiet(root: Path) -> None:
    """Flower reads the variable once, when it is imported; conftest.py sets it for other tests."""
    environment = {name: value for name, value in os.environ.items() if "FLWR" not in name}
    environment = {name: value for name, value in environment.items() if "RAY" not in name}

    def seen(module: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, module],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    modules = importers(root)
    assert "client.daemon.line_errors" in modules
    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(modules, pool.map(seen, modules), strict=True))
    quiet = "flwr ['0', '1', '0']\n"
    assert {module: text for module, text in said.items() if quiet not in text} == {}
