"""Runs tests on a module that was changed, in a child process for each change.

What a test of this project needs to import takes longer than most tests. So the libraries are
imported once, here, and each child is a fork that imports the project alone. For the same reason a
noise that was calibrated once is not calibrated again, unless the accountant is what is changed. A
child works on a copy of the project, and may use so much memory and so much of a processor; how
busy the machine is has no part in the verdict.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Final

from tests.mutants.watching import FirstFailure, Seen, Watch, announcing

PACKAGES: Final = ("client", "common", "server", "simulations", "tests")
ACCOUNTING: Final = "accounting"
Known = dict[str, dict[str, float]]
"""What functions gave, by their names and arguments."""
_MEMORY: Final = 6 * 2**30
_PATIENCE_SECONDS: Final = 1800
"""For what waits and uses no processor."""
_NO_TESTS: Final = (4, 5)
"""Exit codes of pytest: it was asked wrongly, or there is no test."""
_OPTIONS: Final = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header")


@dataclass(frozen=True)
class Ran:
    """How tests ended.

    Attributes:
        passed: every one of them.
        by: the first that failed, or what else ended them.
        seconds: of a processor.
    """

    passed: bool
    by: str
    seconds: float


class Copy:
    """A copy of the project, in which one module is changed.

    Args:
        root: the project.
        folder: where the copy goes; what is there is removed.
        module: its path from the root, without its ending.
        tests: the files that stand for it.
    """

    def __init__(self, root: Path, folder: Path, module: str, tests: Sequence[str]) -> None:
        self.folder, self._root, self._tests = folder, root, tuple(tests)
        self._path = folder / f"{module}.py"
        self._seen: Seen = {}
        self._known: Known | None = None if module == f"common/{ACCOUNTING}" else {}
        self._seconds = 0.0
        shutil.rmtree(folder, ignore_errors=True)
        for name in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, folder / name, ignore=ignored)
        for file in ("pyproject.toml", "constraints.txt", "README.md"):
            shutil.copy(root / file, folder)

    def baseline(self) -> Ran:
        """Run the tests without a change, and import here what they imported that is not ours."""
        found = self.folder / "found.json"

        def watched() -> int:
            watch = Watch()
            code = _pytest(self._tests, watch)
            found.write_text(json.dumps([sorted(sys.modules), watch.seen, self._known]))
            return code

        with self._changed(announcing(self._path.read_text())):
            ran = self._forked(watched, seconds=3600)
        if ran.passed:
            imported, self._seen, self._known = json.loads(found.read_text())
            self._seconds = ran.seconds
            _import(imported)
        return ran

    def run(self, source: str, where: str) -> Ran:
        """Run the tests with the module changed in one function.

        First those that were seen to enter the function, the shortest first; all of them where
        none of these fails, since not everything that a test does is seen.
        """
        entering = sorted(
            (took, test) for test, (took, entered) in self._seen.items() if where in entered
        )
        limit = 10 * self._seconds + 30
        with self._changed(source):
            if entering:
                first = self._forked(lambda: _child([test for _, test in entering]), limit)
                if not first.passed:
                    return first
            return self._forked(lambda: _child(self._tests), limit)

    def _remembering(self, work: Callable[[], int]) -> int:
        """Work, with what the accountant said already, by its arguments."""
        if self._known is not None and (self.folder / "common" / f"{ACCOUNTING}.py").exists():
            accounting = importlib.import_module(f"common.{ACCOUNTING}")
            for name in ("calibrate", "epsilon"):
                known = self._known.setdefault(name, {})
                setattr(accounting, name, _remembered(getattr(accounting, name), known))
        return work()

    @contextmanager
    def _changed(self, source: str) -> Iterator[None]:
        kept = self._path.read_text()
        for cached in self._path.parent.glob(f"__pycache__/{self._path.stem}.*"):
            cached.unlink()  # it knows of its source the second and the size alone
        self._path.write_text(source)
        try:
            yield
        finally:
            self._path.write_text(kept)

    def _forked(self, work: Callable[[], int], seconds: float) -> Ran:
        verdict = self.folder / "verdict.json"
        verdict.unlink(missing_ok=True)
        began = _used()
        child = os.fork()
        if child == 0:
            _begin(self.folder, self._root, seconds, lambda: self._remembering(work))
        status = _ended(child)
        with suppress(ProcessLookupError):  # whatever the tests left behind
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        if code in _NO_TESTS:
            raise RuntimeError(f"pytest found no tests: see {self.folder / 'output.txt'}")
        by = json.loads(verdict.read_text()) if verdict.exists() else ""
        ended = f"signal {-code}" if code < 0 else "an import"
        return Ran(code == 0, by or ended, _used() - began)


def _begin(folder: Path, root: Path, seconds: float, work: Callable[[], int]) -> None:
    """What a child does: it leaves all of the project that was imported, works and ends."""
    code = 70
    try:
        os.setsid()
        _bound(seconds)
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        ours = {"", str(root)}
        sys.path[:] = [str(folder), *(each for each in sys.path if each not in ours)]
        os.environ["PYTHONPATH"] = str(folder)
        for name in [each for each in sys.modules if each.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        importlib.invalidate_caches()
        code = work()
    finally:
        os._exit(code)


def _remembered(function: Callable[..., float], known: dict[str, float]) -> Callable[..., float]:
    @wraps(function)
    def asked(*arguments: object) -> float:
        key = repr(arguments)
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return asked


def _child(tests: Sequence[str]) -> int:
    sys.dont_write_bytecode = True
    return _pytest(tests)


def _pytest(tests: Sequence[str], *plugins: object) -> int:
    import pytest
    from hypothesis import Phase, settings

    # To look for the smallest example of a failure takes longer than to find one.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
    settings.load_profile("mutants")
    first = FirstFailure()
    code = int(pytest.main([*_OPTIONS, *tests], plugins=[first, *plugins]))
    Path("verdict.json").write_text(json.dumps(first.name))
    return code


def _bound(seconds: float) -> None:
    """So much of a processor from now on, and so much memory; for each process by itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(seconds + used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))


def _ended(child: int) -> int:
    """How a child ended, which it does in the end."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _import(names: Collection[str]) -> None:
    """Import what is not the project's; what cannot be imported by itself is left to the tests."""
    for name in names:
        if name.split(".")[0] not in PACKAGES and name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
