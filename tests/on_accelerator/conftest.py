"""The device ``cuda`` is the accelerator; nothing here is collected but in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

ASKED = "CONSILIUM_TEST_ACCELERATOR"
collect_ignore_glob = [] if os.environ.get(ASKED) else ["test_*.py"]
if os.environ.get(ASKED):
    # Before autograd's first pass, which starts a thread for each device that is registered.
    from common.devices.devices import DEVICES
    from tests.on_accelerator.accelerator import FAULTS, Accelerator

    @pytest.fixture
    def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
        """A whole card of 16 GiB that computes rightly, unless a test changes it."""
        found = Accelerator()
        monkeypatch.setitem(DEVICES, "cuda", found)
        yield found
        FAULTS.clear()
