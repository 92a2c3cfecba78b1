"""Writes the Python stubs of the control services: ``python -m common.control.stubs``.

They stand in the repository, so that an installation needs no compiler of protos; a test
writes them again elsewhere and compares.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROTOS: Final = ("site", "coordinator")


def write(folder: Path) -> None:
    """Write the stubs of every proto below ``folder``, each at ``common/control/``.

    Raises:
        RuntimeError: the compiler did not take a proto; it has said why.
    """
    from grpc_tools import protoc  # a developer's tool: an installation has none

    bundled = files("grpc_tools") / "_proto"
    arguments = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    for name in PROTOS:
        path = f"common/control/{name}.proto"
        if protoc.main(["protoc", f"-I{ROOT}", f"-I{bundled}", *arguments, path]):
            raise RuntimeError(f"{path} cannot be compiled")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
