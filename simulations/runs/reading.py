"""One measure of progress for reading many folders: each file is read, then decoded or known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from client.data.archive import walk
from common.process.progress import Progress, Tracker


class ReadingProgress:
    """How much there is to read.

    Args:
        folders: by name; files are counted at once.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._steps = {name: 2 * sum(1 for _ in walk(folder)) for name, folder in folders.items()}

    @property
    def total(self) -> int:
        """Steps in all: two for each file."""
        return sum(self._steps.values())

    @contextmanager
    def of(self, name: str, job: Tracker) -> Iterator[Progress]:
        """What to show the reading of one folder on; what was known already counts at the end."""
        share = _Share(job, self._steps[name])
        yield share
        share.finish()


class _Share:
    """The part of a job that one folder is; itself a way to show progress."""

    def __init__(self, job: Tracker, steps: int) -> None:
        self._job = job
        self._left = steps

    @contextmanager
    def __call__(self, description: str, total: int, *, unit: str = "") -> Iterator[Tracker]:
        """Begin a job within the job."""
        del description, total, unit
        yield self

    def advance(self, n: int = 1) -> None:
        """Count steps, never more than the folder has."""
        # Files may appear after they were counted.
        n = min(n, self._left)
        self._left -= n
        if n:
            self._job.advance(n)

    def finish(self) -> None:
        """Count what is left."""
        self.advance(self._left)
