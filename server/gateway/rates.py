"""How much of the gateway one caller may use: token buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST_SECONDS: Final = 20.0
"""A site may save up this much of its rate: a large model is many requests at once."""
REFUSALS_PER_SECOND: Final = 5.0
"""Of an address; beyond these it is not told why, unless it shows an admitted key."""
MOST_REFUSALS: Final = 100.0
WORDS_PER_SECOND: Final = 0.1
MOST_WORDS: Final = 20.0
"""How often the log is told the same of an address whose site is not known."""
MOST_KNOWN: Final = 10_000
"""Buckets kept; a full one says nothing, and the fullest are those unused for longest."""


@dataclass
class _Bucket:
    tokens: float
    filled: float


class TokenBuckets:
    """One bucket for each name.

    Args:
        rate: tokens that drip in a second.
        capacity: of a bucket, which begins full.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._buckets: dict[str, _Bucket] = {}

    def level(self, name: str, now: float) -> float:
        """Tokens in a bucket now."""
        bucket = self._buckets.get(name)
        if bucket is None:
            return self._capacity
        return min(self._capacity, bucket.tokens + (now - bucket.filled) * self._rate)

    def take(self, name: str, now: float) -> bool:
        """Take a token; False where there is none."""
        level = self.level(name, now)
        if level < 1:
            return False
        self._buckets.pop(name, None)  # so that the order is that of use
        self._buckets[name] = _Bucket(level - 1, now)
        if len(self._buckets) > MOST_KNOWN:
            del self._buckets[next(iter(self._buckets))]
        return True


class RateLimiter:
    """What callers may ask.

    Args:
        requests_per_second: from one site, on average.
    """

    def __init__(self, requests_per_second: float) -> None:
        self._sites = TokenBuckets(requests_per_second, requests_per_second * BURST_SECONDS)
        self._refusals = TokenBuckets(REFUSALS_PER_SECOND, MOST_REFUSALS)
        self._words = TokenBuckets(WORDS_PER_SECOND, MOST_WORDS)

    def hears(self, address: str, now: float) -> bool:
        """Whether an address was not refused too often."""
        return self._refusals.level(address, now) >= 1

    def refused(self, address: str, now: float) -> None:
        """An address was refused."""
        self._refusals.take(address, now)

    def worth_a_word(self, address: str, reason: str, now: float) -> bool:
        """Whether it was not said over and over that an address was refused for a reason."""
        return self._words.take(f"{reason} {address}", now)

    def serves(self, site: str, now: float) -> bool:
        """Whether a site has not asked for more than its share."""
        return self._sites.take(site, now)
