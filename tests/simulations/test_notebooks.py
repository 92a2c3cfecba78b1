"""The worked notebooks run from the first cell to the last, and are committed without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = {"utility-against-epsilon": 4, "own-strategy": 5}
"""Each with how many lines its last printed cell has."""


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


@pytest.mark.long
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_draws(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Its shell cells call the commands of this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = read(root / "docs" / "notebooks" / f"{name}.ipynb")
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [each for cell in notebook.cells for each in cell.get("outputs", [])]
    assert any("image/png" in each.get("data", {}) for each in outputs)
    printed = [each.text for each in outputs if each.get("name") == "stdout"]
    assert len(printed[-1].strip().splitlines()) == NOTEBOOKS[name]


def test_every_notebook_is_run_and_holds_no_output(root: Path) -> None:
    paths = sorted((root / "docs" / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in paths] == sorted(NOTEBOOKS)
    for path in paths:
        for cell in read(path).cells:
            assert not cell.get("outputs"), path
