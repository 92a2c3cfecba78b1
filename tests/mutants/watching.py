"""Plugins of pytest: which test failed first, and which functions of a module each test enters."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

Seen = dict[str, tuple[float, list[str]]]
"""By test: how long it took, and the functions that it entered."""


class FirstFailure:
    """Keeps the name of the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest when a test was set up, has run, was taken down."""
        if report.failed and not self.name:
            self.name = report.nodeid


class Watch:
    """Keeps which functions of a file each test enters, in this process.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.seen: Seen = {}
        self._path = path
        self._entered: set[str] = set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Called by pytest around each test."""
        self._entered = set()
        sys.settrace(self._call)
        threading.settrace(self._call)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type] - as sys.settrace
        took, _ = self.seen.get(item.nodeid, (0.0, []))
        self.seen[item.nodeid] = took, sorted(self._entered)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest when a test was set up, has run, was taken down."""
        took, entered = self.seen.get(report.nodeid, (0.0, []))
        self.seen[report.nodeid] = took + report.duration, entered

    def _call(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ANN401 - a tracer
        if event == "call" and frame.f_code.co_filename == self._path:
            self._entered.add(frame.f_code.co_qualname.replace(".<locals>", ""))
