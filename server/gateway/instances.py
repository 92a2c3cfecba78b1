"""Two machines that call as one site: somebody copied its folder, or restored a backup elsewhere.

Each would charge its own copy of the privacy ledger, and take the other's requests. So both are
told, the coordinator is told, and neither gets a request until one of them is silent.

A site's daemon sends a random number with each call, drawn when its process starts. A restart
changes it, and what was heard before is not heard again. Only of two machines is each heard after
the other.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

ACTIVE_SECONDS: Final = 75.0
"""A machine that has not called for this long is gone; it calls at least every 30 s."""
LINGERING_SECONDS: Final = 10.0
"""What a process sent before it ended may still arrive, that much later than its successor's."""
MOST: Final = 8
"""Machines of one site that are told apart; the one that was silent for longest is forgotten."""
_LONGEST: Final = 64


@dataclass
class _Machine:
    first: float
    last: float
    since: str


class Instances:
    """The processes that were heard of each site."""

    def __init__(self) -> None:
        self._sites: dict[str, dict[str, _Machine]] = {}

    def heard(self, site: str, instance: str, now: float, wall: datetime.datetime) -> str:
        """Note a call that was let in; gives what :meth:`twins` does.

        Args:
            site: the caller.
            instance: its number; empty where it sends none.
            now: seconds on a monotonic clock.
            wall: the time, with a zone.
        """
        machines, instance = self._sites.setdefault(site, {}), instance[:_LONGEST]
        for name in [each for each, it in machines.items() if it.last < now - ACTIVE_SECONDS]:
            del machines[name]
        if instance in machines:
            machines[instance].last = now
        else:
            if len(machines) >= MOST:
                del machines[min(machines, key=lambda name: machines[name].last)]
            machines[instance] = _Machine(now, now, f"{wall:%Y-%m-%dT%H:%M:%SZ}")
        return self.twins(site, now)

    def twins(self, site: str, now: float) -> str:
        """Since when two machines call as a site; empty where one does."""
        active = [
            it for it in self._sites.get(site, {}).values() if it.last >= now - ACTIVE_SECONDS
        ]
        later = sorted(active, key=lambda it: it.first)
        for number, machine in enumerate(later):
            if any(it.last > machine.first + LINGERING_SECONDS for it in later[:number]):
                return machine.since
        return ""
