"""What the gateway refused, as events: the first of a kind at once, the rest counted.

Whoever knocks a thousand times a second must not fill the store, so that of each reason, site
and address there is one event a minute, with how often it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Final

from common.errors import CoordinatorError
from server.store import Store

EVERY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.5
MOST_KINDS: Final = 1000
"""Kinds that are told apart at once; further addresses are counted together."""

Kind = tuple[str, str | None, str]


@dataclass
class _Seen:
    count: int = 0
    written: float = -EVERY_SECONDS


class Refusals:
    """Refusals that are on their way to the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[Kind, _Seen] = {}

    def note(self, reason: str, site: str | None, address: str) -> None:
        """Count a refusal; it costs nothing."""
        kind = (reason, site, address)
        if kind not in self._seen and len(self._seen) >= MOST_KINDS:
            kind = (reason, None, "others")
        self._seen.setdefault(kind, _Seen()).count += 1

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is told apart now."""
        return tuple(self._seen)

    async def keep(self) -> None:
        """Write them down as they come, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write down what is due."""
        now = time.monotonic()
        for kind, seen in list(self._seen.items()):
            if now - seen.written < EVERY_SECONDS:
                continue
            if not seen.count:
                del self._seen[kind]
                continue
            count, seen.count, seen.written = seen.count, 0, now
            await asyncio.to_thread(self._write, kind, count)

    def _write(self, kind: Kind, count: int) -> None:
        reason, site, address = kind
        fields = {"reason": reason, "address": address, "count": count}
        with contextlib.suppress(CoordinatorError):  # the store is away; the log has them all
            self._store.record(None, "gateway.refused", site=site, fields=fields)
