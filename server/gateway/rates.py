"""How many requests one caller may make: token buckets.

Not a library: anyone may call, from any number of addresses, so the number of buckets must be
bounded. ``aiolimiter`` is a single bucket and makes callers wait; ``limits`` counts in windows, and
in memory keeps every caller until its window ends.
"""

from __future__ import annotations

from typing import Final

# Flower cuts a model into objects of at most 5 MiB, a request each: 20 s of the default rate, 50
# a second, are 1,000 requests, about 5 GiB.
BURST_SECONDS: Final = 20.0
"""A site may save up this much of its rate: a large model is many requests at once."""
REFUSALS_PER_SECOND: Final = 5.0
"""Refusals of one address that are explained; after these the answer is only "rate"."""
MOST_REFUSALS: Final = 100.0
LOG_LINES_PER_SECOND: Final = 0.1
MOST_LOG_LINES: Final = 20.0
"""Log lines with the same reason and the same site or address."""
# A bound on memory against a caller with many addresses. The one that is forgotten was not used
# for longest, so its bucket is the fullest: forgetting a full bucket changes nothing.
MOST_BUCKETS: Final = 10_000
"""Buckets that are kept."""


class TokenBuckets:
    """One bucket for each name.

    Args:
        rate: tokens that are added in a second.
        capacity: of a bucket; a new one is full.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when there were so many

    def level(self, name: str, now: float) -> float:
        """Tokens in a bucket now; none is taken."""
        tokens, since = self._buckets.get(name, (self._capacity, now))
        return min(self._capacity, tokens + (now - since) * self._rate)

    def take(self, name: str, now: float) -> bool:
        """Take a token; False if there is none."""
        level = self.level(name, now)
        if level < 1:
            return False
        self._buckets.pop(name, None)  # so that the order is that of use
        self._buckets[name] = (level - 1, now)
        if len(self._buckets) > MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return True


class RateLimiter:
    """How often callers may ask.

    Args:
        requests_per_second: from one site, on average.
    """

    def __init__(self, requests_per_second: float) -> None:
        self._sites = TokenBuckets(requests_per_second, requests_per_second * BURST_SECONDS)
        self._refusals = TokenBuckets(REFUSALS_PER_SECOND, MOST_REFUSALS)
        self._log_lines = TokenBuckets(LOG_LINES_PER_SECOND, MOST_LOG_LINES)

    def explains_to(self, address: str, now: float) -> bool:
        """Whether the next refusal of this address is explained: it was not refused too often."""
        return self._refusals.level(address, now) >= 1

    def refused(self, address: str, now: float) -> None:
        """An address was refused."""
        self._refusals.take(address, now)

    def may_log(self, address: str, reason: str, now: float) -> bool:
        """Whether to log a refusal: the same was not logged too often."""
        return self._log_lines.take(f"{reason} {address}", now)

    def allows(self, site: str, now: float) -> bool:
        """Whether a site is within its rate."""
        return self._sites.take(site, now)
