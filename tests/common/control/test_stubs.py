"""The stubs in the repository are the protos'."""

from __future__ import annotations

from pathlib import Path

from common.control import stubs


def test_the_stubs_are_what_the_protos_give(tmp_path: Path, root: Path) -> None:
    """Write them again: ``make stubs``."""
    stubs.write(tmp_path)

    fresh = {path.name: path.read_bytes() for path in (tmp_path / "common/control").iterdir()}
    kept = {path.name: path.read_bytes() for path in (root / "common/control").glob("*_pb2*.py*")}
    assert fresh == kept
    assert len(kept) == 3 * len(stubs.PROTOS)
