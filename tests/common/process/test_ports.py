"""A free port stays free until it is used, whoever connects to whatever meanwhile."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from common.process import ports
from common.process.ports import LOOPBACK, free_port

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server((LOOPBACK, free_port())):
        pass


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    with socket.create_server((LOOPBACK, 0)) as server:
        drawn = iter([server.getsockname()[1] - ports.FIRST, free - ports.FIRST])
        monkeypatch.setattr("common.process.ports.secrets.randbelow", lambda _: next(drawn))
        assert free_port() == free


@pytest.mark.skipif(not RANGE.exists(), reason="Linux alone says which ports it gives")
def test_the_system_gives_it_to_nobody_else() -> None:
    lowest = int(RANGE.read_text().split()[0])
    if lowest < ports.END:
        pytest.skip("this machine gives ports from another range than Linux does by itself")
    assert all(free_port() < lowest for _ in range(100))
