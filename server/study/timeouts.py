"""How long the coordinator waits for each site: shorter each time the site is silent.

A hospital that ended its part and one whose connection is down for a weekend look the same from
here: silent. Waiting the full time would take every round to its time-out. So after each round
without a reply the wait is halved, down to a minute or to twice the longest time that the site
ever needed. Once its node is activated again, or it answers, it has the full time again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_SECONDS: Final = 60.0
MOST_HALVINGS: Final = 30  # enough for any time-out; 2.0**1024 would overflow


@dataclass
class _Known:
    silences: int = 0
    longest: float = 0.0
    activated: str | None = None


class ReplyTimeouts:
    """What is known of how long each site takes, over the rounds of a study."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def seconds(self, site: str, timeout: float) -> float:
        """How long to wait for a site where the study says ``timeout``."""
        known = self._known.get(site, _Known())
        # Never so short that the site could not answer: it would seem silent from then on.
        least = max(LEAST_SECONDS, 2 * known.longest)
        return min(timeout, max(least, timeout / 2.0 ** min(known.silences, MOST_HALVINGS)))

    def is_back(self, site: str, activated: str) -> bool:
        """Whether a silent site's node was activated again: then it has the full time again."""
        known = self._known.get(site)
        if known is None or not known.silences or known.activated == activated:
            return False
        known.silences = 0
        return True

    def answered(self, site: str, took: float) -> None:
        """A site has answered, ``took`` seconds after it was asked."""
        known = self._known.setdefault(site, _Known())
        known.silences, known.longest = 0, max(known.longest, took)

    def silent(self, site: str, activated: str | None) -> None:
        """A site gave no reply; ``activated`` says when its node was activated, if known."""
        known = self._known.setdefault(site, _Known())
        known.silences += 1
        known.activated = activated if activated is not None else known.activated
