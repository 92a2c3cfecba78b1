"""Flower and Ray are told to stay off the network before they are imported, wherever it begins."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("client", "common", "server", "simulations")
PROGRAM = """
import importlib, os, sys
import torch  # once for all: most modules load it, and it loads neither of the two
assert not {"flwr", "ray"} & set(sys.modules)
class Looks:
    def find_spec(self, name, path, target=None):
        if name in ("flwr", "ray"):
            told = [os.environ.get(each) for each in (
                "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED"
            )]
            print(module, name, told, flush=True)
sys.meta_path.insert(0, Looks())
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        importlib.import_module(module)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
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

    modules = importers(root)
    assert "client.daemon.line_errors" in modules
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules],
        cwd=root,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {f"{module} flwr ['0', '1', '0']" for module in modules} - set(said) == set()
