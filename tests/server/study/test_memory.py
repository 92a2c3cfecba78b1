"""The coordinator holds one sum, not one reply for each site."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import World

HIDDEN = 8000
ONE_REPLY = 4 * HIDDEN * (2 * 4 * 4 + 2)
"""Bytes of an int32 update, but for the few weights of the convolution."""


def peak_of(world: World, *, sites: int, rounds: int) -> int:
    """The most bytes that a study holds at once, with nobody to collect garbage."""
    world.patients = {f"site-{number:02d}": 100 for number in range(sites)}
    world.hidden, world.rounds, world.evaluations = HIDDEN, rounds, '"none"'
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        world.run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("strategy", ["fedadam", pytest.param("fedavg", marks=pytest.mark.long)])
def test_memory_grows_neither_with_sites_nor_with_rounds(
    make_world: Callable[[str], World], strategy: str
) -> None:
    def peak(sites: int, rounds: int) -> int:
        world = make_world(f'strategy = "{strategy}"\n')
        world.remembers = False
        return peak_of(world, sites=sites, rounds=rounds)

    peak(2, 1)  # caches and imports belong to the process, not to the study
    base = peak(4, 2)
    assert peak(64, 2) - base < ONE_REPLY
    assert peak(4, 6) - base < ONE_REPLY
