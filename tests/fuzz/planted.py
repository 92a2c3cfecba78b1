"""Readers with a fault each, which the fuzzer must see."""

from __future__ import annotations

import os
import signal
import threading
import time
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
    """One fault, which ends each process at another line of the function."""

    def fail(self) -> str:
        before = self.folder / "hung"
        if before.exists():
            while True:
                pass
        before.touch()
        while True:
            pass


class Wait(_Planted):
    def fail(self) -> str:
        threading.Event().wait()
        return "never"


class Leak(_Planted):
    """Loses something for each twentieth of a second that it works."""

    lost: int = 0

    def fail(self) -> str:
        while self.lost < 20 * time.process_time():
            self.lost += 1
            self.lose()
        return "lost"

    def lose(self) -> None:
        """What this reader does not give back."""
        raise NotImplementedError


KEPT: Final[list[bytearray]] = []


class Growth(Leak):
    def lose(self) -> None:
        KEPT.append(bytearray(b"x" * 2**22))


class Files(Leak):
    def lose(self) -> None:
        (self.folder / str(self.lost)).touch()


class Descriptors(Leak):
    def lose(self) -> None:
        os.open(os.devnull, os.O_RDONLY)
