"""Readers with a fault each, which the fuzzer must see."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Final

from common.errors import DataError
from tests.fuzz.target import Target


class _Planted(Target):
    errors = (DataError,)

    def samples(self) -> Sequence[bytes]:
        return [b"sound"]

    def take(self, data: bytes) -> str:
        if data == b"sound":
            return "sound"
        return self.fail()

    def fail(self) -> str:
        """What this reader does wrong."""
        raise NotImplementedError


class Panic(BaseException):
    """As a decoder in Rust raises it: no ``Exception``."""


class Escape(_Planted):
    def fail(self) -> str:
        raise Panic


class Silent(_Planted):
    """Raises what a person can do nothing about."""

    def fail(self) -> str:
        raise DataError("something is wrong")


class Crash(_Planted):
    def fail(self) -> str:
        os.kill(os.getpid(), signal.SIGSEGV)
        return "never"


class Hang(_Planted):
    def fail(self) -> str:
        while True:
            pass


class Wait(_Planted):
    def fail(self) -> str:
        threading.Event().wait()
        return "never"


KEPT: Final[list[bytearray]] = []


class Growth(_Planted):
    """Keeps two megabytes of every hundredth input."""

    count = 0

    def fail(self) -> str:
        self.count += 1
        if self.count % 100 == 0:
            KEPT.append(bytearray(b"x" * 2**21))
        return "kept"


class Files(_Planted):
    """Leaves a file of every hundredth input."""

    count = 0

    def fail(self) -> str:
        self.count += 1
        if self.count % 100 == 0:
            (self.folder / str(self.count)).touch()
        return "left"


class Descriptors(Files):
    """Leaves one open."""

    def fail(self) -> str:
        self.count += 1
        if self.count % 100 == 0:
            os.open(os.devnull, os.O_RDONLY)
        return "left"
