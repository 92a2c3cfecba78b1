"""How long to wait before trying again: ever longer, and never in step with others.

Full jitter: uniform between nothing and a bound that doubles. After an outage thirty sites
do not come back in the same second.
"""

from __future__ import annotations

import random
from typing import Final

_DRAWS: Final = random.SystemRandom()


class Backoff:
    """The waits of one thing that is tried again.

    Args:
        first: bound of the first wait, seconds.
        most: bound of all later ones, seconds.
    """

    def __init__(self, first: float = 1.0, most: float = 60.0) -> None:
        self._first = self._bound = first
        self._most = most

    def next(self) -> float:
        """Seconds to wait now; the bound of the wait after it is twice as high."""
        wait = _DRAWS.uniform(0, self._bound)
        self._bound = min(2 * self._bound, self._most)
        return wait

    def reset(self) -> None:
        """It has worked: begin anew."""
        self._bound = self._first
