"""A signature is taken once, however the machine's clock is set."""

from __future__ import annotations

import datetime
from base64 import b64encode
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.node_key import public_node_key
from server.gateway.authentication import (
    HEADERS,
    MOST_AHEAD,
    MOST_BEHIND,
    MOST_SPANS,
    REMEMBERED_SECONDS,
    Admitted,
    Authenticator,
    Denied,
    TimeSpans,
)

# isort: split
from flwr.supercore.primitives.asymmetric import sign_message

KEY: Final = ec.generate_private_key(ec.SECP384R1())
PEM: Final = public_node_key(KEY).encode()
NOON: Final = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
SITE: Final = Admitted("north", 1, "admitted")


class Everyone:
    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        return SITE


class Gateway:
    """A doorkeeper on two clocks of the test's: ``now`` runs, ``wall`` runs and is set."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.now = 0.0
        self.wrong = wrong
        self.door = Authenticator(Everyone(), self.wall, self.now)

    @property
    def right(self) -> datetime.datetime:
        return NOON + datetime.timedelta(seconds=self.now)

    @property
    def wall(self) -> datetime.datetime:
        return self.right + datetime.timedelta(seconds=self.wrong)

    def signed(self, ahead: float = 0.0) -> dict[str, str]:
        """Headers of a site whose clock is that much ahead of the right time."""
        stamp = (self.right + datetime.timedelta(seconds=ahead)).isoformat()
        signature = b64encode(sign_message(KEY, stamp.encode())).decode()
        return dict(zip(HEADERS, (b64encode(PEM).decode(), signature, stamp), strict=True))

    def says(self, headers: dict[str, str]) -> str:
        try:
            self.door.caller(headers, self.wall, self.now)
        except Denied as denied:
            return denied.code
        return "taken"


def test_a_clock_that_is_set_back_brings_no_signature_back() -> None:
    gateway = Gateway()
    gateway.now = 1000.0
    captured = gateway.signed()
    assert gateway.says(captured) == "taken"
    gateway.now += REMEMBERED_SECONDS + 1  # it is not known by itself any more
    gateway.says(gateway.signed())
    gateway.wrong = -REMEMBERED_SECONDS - 1  # and by the clock it is of now again
    assert gateway.says(captured) == "replay"


def test_a_clock_that_is_set_back_brings_none_back_from_before_the_gateway_began() -> None:
    before = Gateway()
    before.now = -50.0
    captured = before.signed()
    gateway = Gateway()
    gateway.now = 5.0
    assert gateway.says(captured) == "replay"
    gateway.wrong = -52.0
    assert gateway.says(captured) == "replay"


def test_a_clock_that_is_set_ahead_brings_none_back_from_before_the_gateway_began() -> None:
    """It began on a clock that was an hour behind, its life before on one that was right."""
    before = Gateway()
    before.now = -50.0
    captured = before.signed()
    gateway = Gateway(wrong=-3600.0)
    gateway.now, gateway.wrong = 5.0, 0.0
    assert gateway.says(captured) == "replay"


@pytest.mark.parametrize("wrong", [-4e7, -3600.0, -200.0, 200.0, 3600.0, 4e7])
def test_a_clock_that_is_set_right_lets_every_site_in_again(wrong: float) -> None:
    gateway = Gateway(wrong)
    for gateway.now in range(1, 2000, 20):
        gateway.says(gateway.signed())
    gateway.wrong = 0.0
    assert gateway.says(gateway.signed()) == "taken"


@pytest.mark.parametrize("ahead", [-MOST_BEHIND + 1, -100.0, 0.0, MOST_AHEAD - 1])
def test_what_is_forgotten_keeps_out_no_site_whose_clock_is_a_little_off(ahead: float) -> None:
    gateway = Gateway()
    for gateway.now in range(400, 1500, 5):
        fast, slow = gateway.signed(MOST_AHEAD - 0.5), gateway.signed(ahead)
        assert gateway.says(fast) == "taken"
        assert gateway.says(slow) == "taken"


STEPS: Final = st.lists(
    st.tuples(st.sampled_from([1.0, 100.0, 340.0]), st.sampled_from([-900, -340, -90, 0, 90, 340])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(steps=STEPS)
@example(steps=[(1.0, 0), (340.0, 0), (1.0, -340)])
def test_however_often_the_clock_is_set_nothing_is_taken_twice(
    steps: list[tuple[float, int]],
) -> None:
    gateway = Gateway()
    taken: list[dict[str, str]] = []
    for seconds, gateway.wrong in steps:
        gateway.now += seconds
        fresh = gateway.signed()
        if gateway.says(fresh) == "taken":
            taken.append(fresh)
        assert "taken" not in [gateway.says(each) for each in taken]
    gateway.wrong = 0.0
    gateway.now += 1000.0
    assert gateway.says(gateway.signed()) == "taken"


def test_spans_that_are_too_many_are_made_one_and_hold_what_they_held() -> None:
    spans = TimeSpans((0.0, 1.0))
    times = [1000.0 * number for number in range(1, 3 * MOST_SPANS)]
    for time in times:
        spans.add(time)
    assert all(spans.contain(time) for time in times)
    assert len(spans) == MOST_SPANS
    assert not spans.contain(-1000.0)
