"""Token buckets, by hand."""

from __future__ import annotations

from server.gateway.rates import (
    BURST_SECONDS,
    MOST_BUCKETS,
    MOST_LOG_LINES,
    MOST_REFUSALS,
    RateLimiter,
    TokenBuckets,
)


def test_a_bucket_gives_what_it_holds_and_what_drips_into_it() -> None:
    buckets = TokenBuckets(rate=2.0, capacity=3.0)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b", 0.0)
    assert buckets.take("a", 0.5)
    assert not buckets.take("a", 0.5)
    assert buckets.level("a", 100.0) == 3.0


def test_few_names_are_kept() -> None:
    buckets = TokenBuckets(rate=1.0, capacity=1.0)
    for number in range(MOST_BUCKETS + 10):
        buckets.take(str(number), 0.0)
    assert buckets.level("0", 0.0) == 1.0
    assert buckets.level(str(MOST_BUCKETS + 9), 0.0) == 0.0


def test_a_site_may_save_up_for_a_large_model() -> None:
    rates = RateLimiter(2.0)
    asked = [rates.allows("site", 0.0) for _ in range(int(2 * BURST_SECONDS) + 1)]
    assert asked == [True] * int(2 * BURST_SECONDS) + [False]
    assert rates.allows("other", 0.0)


def test_an_address_that_is_always_refused_is_not_heard() -> None:
    rates = RateLimiter(1.0)
    for _ in range(int(MOST_REFUSALS)):
        assert rates.explains_to("here", 0.0)
        rates.refused("here", 0.0)
    assert not rates.explains_to("here", 0.0)
    assert rates.explains_to("there", 0.0)
    assert rates.explains_to("here", 10.0)


def test_the_log_is_not_filled_by_one_address() -> None:
    rates = RateLimiter(1.0)
    said = [rates.may_log("here", "unknown-key", 0.0) for _ in range(int(MOST_LOG_LINES) + 1)]
    assert said == [True] * int(MOST_LOG_LINES) + [False]
    assert rates.may_log("here", "replay", 0.0)
    assert rates.may_log("there", "unknown-key", 0.0)
    assert rates.may_log("here", "unknown-key", 10.0)
