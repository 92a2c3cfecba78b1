"""Whether an archive is as it was is seen from its entries, without reading a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.archive import entries_of


def rewritten(folder: Path) -> None:
    """Other bytes of the same number, and the old time put back."""
    file = folder / "images" / "a" / "one.dcm"
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: (folder / "images" / "a" / "one.dcm").unlink(),
    lambda folder: (folder / "images" / "b.dcm").write_bytes(b"new"),
    lambda folder: (folder / "labels.csv").write_text("two"),
    lambda folder: (folder / "images" / "a" / "one.dcm").rename(folder / "images" / "one.dcm"),
    rewritten,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_entry_is_seen(tmp_path: Path, change: Callable[[Path], object]) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels.csv"
    (images / "a").mkdir(parents=True)
    (images / "a" / "one.dcm").write_bytes(b"one")
    labels.write_text("one")
    before = entries_of(images, labels)
    assert entries_of(images, labels) == before
    change(tmp_path)
    assert entries_of(images, labels) != before
