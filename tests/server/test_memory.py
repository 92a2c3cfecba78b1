"""The coordinator holds one sum, not one reply for each site."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import World

HIDDEN = 8000
ONE_REPLY = 4 * HIDDEN * (2 * 4 * 4 + 2)
"""Bytes of an int32 update, but for the few weights of the convolution."""


def peak_of(world: World, sites: int) -> int:
    """The most bytes that a study of so many sites holds at once, beyond what was there."""
    world.patients = {f"site-{number:02d}": 100 for number in range(sites)}
    world.hidden, world.rounds, world.evaluations = HIDDEN, 2, '"none"'
    tracemalloc.start()
    try:
        world.run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_memory_does_not_grow_between_4_and_64_sites(
    make_world: Callable[[str], World], strategy: str
) -> None:
    lines = f'strategy = "{strategy}"\n'
    peak_of(make_world(lines), 2)  # caches and imports belong to the process, not to the study
    few, many = (peak_of(make_world(lines), sites) for sites in (4, 64))
    assert many - few < ONE_REPLY
