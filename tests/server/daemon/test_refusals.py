"""Refusals become events, and whoever knocks without end fills nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.daemon.recording import MOST_KINDS, Refusals
from server.store import open_store


def test_the_first_of_a_kind_is_written_and_the_rest_counted(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        refusals = Refusals(store)
        for _ in range(500):
            refusals.note("replay", "north", "192.0.2.1")
        refusals.note("unknown-key", None, "192.0.2.1")
        asyncio.run(refusals.flush())
        refusals.note("replay", "north", "192.0.2.1")
        asyncio.run(refusals.flush())
        events = store.events(kind="gateway.refused")
    assert [(event.site, event.fields["reason"], event.fields["count"]) for event in events] == [
        ("north", "replay", 500),
        (None, "unknown-key", 1),
    ]


def test_a_flood_from_many_addresses_is_counted_together(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        refusals = Refusals(store)
        for number in range(2 * MOST_KINDS):
            refusals.note("plain-http", None, f"192.0.2.{number}")
        assert len(refusals._seen) == MOST_KINDS + 1  # noqa: SLF001 - what it holds
