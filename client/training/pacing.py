"""Replies leave at public times, so that no time tells anything of a patient.

How long work takes may tell how many patients there are, how many were drawn, or what one file
cost to read (a timing side channel). So work that reads patients (a round, an evaluation, the
freezing of a cohort) keeps the site busy until its time slot, the *tick*, is over. The tick is a
public length of time in the plan (:mod:`client.training.ticks`). If the work is not done by then,
the site is busy for two ticks, or four, eight and so on. Its beginning follows from public things,
and so does what comes after it. An overrun tells how often the tick was doubled, and nothing finer.

A reply is durable before it waits: if the process dies meanwhile, the reply is sent when it is
asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def ticks_until(elapsed: float, tick: float) -> int:
    """The least of 1, 2, 4, 8 ... ticks that are not over after so many seconds."""
    count = 1
    # Doubled, not increased: one tick more at a time would tell how long the work took to a tick.
    while count * tick < elapsed:
        count *= 2
    return count


class Pace:
    """What one site waits for; nothing where it does not serve, as in a simulation.

    Args:
        waits: whether it does.
        clock: seconds that never go back.
        sleep: does nothing for so many seconds.
    """

    def __init__(
        self,
        *,
        waits: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._waits, self._clock, self._sleep = waits, clock, sleep
        self._began: float | None = None
        self._tick = 0.0

    def begin(self, milliseconds: int) -> None:
        """From here on patients are looked at; the first beginning counts, and the longest tick.

        Args:
            milliseconds: the tick; 0 for no waiting.
        """
        if not self._waits or not milliseconds:
            return
        if self._began is None:
            self._began, self._tick = self._clock(), 0.0
        self._tick = max(self._tick, milliseconds / 1000)

    def rest(self) -> int:
        """Wait until what was begun may be over.

        Returns:
            After how many ticks it is; 0 where nothing was begun.
        """
        if self._began is None:
            return 0
        began, self._began = self._began, None
        count = ticks_until(self._clock() - began, self._tick)
        # Not one sleep: a clock may be coarser than it says, and a sleep end before its time.
        while (left := began + count * self._tick - self._clock()) > 0:
            self._sleep(left)
        return count
