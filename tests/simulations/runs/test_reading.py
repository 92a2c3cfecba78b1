from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from simulations.runs.reading import ReadingProgress


class Count:
    """A job that remembers how far it is."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, n: int = 1) -> None:
        self.done += n


def test_every_file_counts_twice_whatever_a_cache_knew_already(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/x/3"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    reading, job = ReadingProgress({"a": tmp_path / "a", "b": tmp_path / "b"}), Count()

    assert reading.total == 6
    with ExitStack() as stack:
        progress = stack.enter_context(reading.of("a", job))
        with progress("reading files", 2, unit="files") as part:
            part.advance(2)
        assert job.done == 2  # and nothing had to be decoded
    assert job.done == 4


def test_a_folder_never_counts_more_than_its_share(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    job = Count()
    with ReadingProgress({"a": tmp_path}).of("a", job) as progress, progress("reading", 1) as part:
        part.advance(7)

    assert job.done == 2
