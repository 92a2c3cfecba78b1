"""How long each site is waited for: as long as the study says, and ever shorter where it is silent.

A hospital that ended its part, or lost its line for a weekend, looks the same from here:
silent. Waiting for it in full would take each round to its time-out. So after each round that
a site let pass without a word it is waited for half as long, down to a minute or to twice what
it has ever needed; once its node is activated anew, or it answers, it has all the time again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_SECONDS: Final = 60.0
MOST_HALVINGS: Final = 30


@dataclass
class _Known:
    silences: int = 0
    longest: float = 0.0
    activated: str | None = None


class ReplyTimeouts:
    """What is known of the sites' ways to answer, over the rounds of a study."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def seconds(self, site: str, timeout: float) -> float:
        """How long to wait for a site where the study says ``timeout``."""
        known = self._known.get(site, _Known())
        least = max(LEAST_SECONDS, 2 * known.longest)
        return min(timeout, max(least, timeout / 2.0 ** min(known.silences, MOST_HALVINGS)))

    def is_back(self, site: str, activated: str) -> bool:
        """Whether a silent site's node was activated anew: then it has all the time again."""
        known = self._known.get(site)
        if known is None or not known.silences or known.activated == activated:
            return False
        known.silences = 0
        return True

    def answered(self, site: str, took: float) -> None:
        """A site has answered, so many seconds after it was asked."""
        known = self._known.setdefault(site, _Known())
        known.silences, known.longest = 0, max(known.longest, took)

    def silent(self, site: str, activated: str | None) -> None:
        """A site let its time pass; ``activated`` says since when its node was active, if known."""
        known = self._known.setdefault(site, _Known())
        known.silences += 1
        known.activated = activated if activated is not None else known.activated
