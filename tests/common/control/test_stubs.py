"""The stubs in the repository are the protos'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTOS = ("coordinator", "site")


def test_the_stubs_are_what_the_protos_give(tmp_path: Path, root: Path) -> None:
    """Write them again: ``make stubs``."""
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    protos = [f"common/control/{name}.proto" for name in PROTOS]
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    subprocess.run([*compiler, *outs, *protos], cwd=root, check=True)

    fresh = {path.name: path.read_bytes() for path in (tmp_path / "common/control").iterdir()}
    kept = {path.name: path.read_bytes() for path in (root / "common/control").glob("*_pb2*.py*")}
    assert fresh == kept
    assert len(kept) == 3 * len(PROTOS)
