"""Who makes room for whom."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from server.gateway.connection_limiter import (
    STRANGER_SECONDS,
    Client,
    ConnectionLimiter,
    HeldConnection,
    network_of,
)


class Scene:
    """A limiter, and what became of whom."""

    def __init__(self, most: int, of_site: int = 3) -> None:
        self.cut: list[Client] = []
        self.refused: list[tuple[str | None, str]] = []
        self.limiter = ConnectionLimiter(
            most, of_site, lambda site, address: self.refused.append((site, address))
        )

    def add(self, address: str, port: int, now: float = 0.0) -> Client:
        client = (address, port)
        self.limiter.add(client, now, lambda: self.cut.append(client))
        return client


def test_at_one_address_the_strangers_that_were_there_first_make_room() -> None:
    scene = Scene(16)
    for port in range(6):
        scene.add("192.0.2.1", port)
    assert scene.cut == [("192.0.2.1", 0), ("192.0.2.1", 1)]
    assert scene.refused == [(None, "192.0.2.1")] * 2
    assert len(scene.limiter) == 4


def test_a_site_counts_for_no_address_and_strangers_do_not_move_it() -> None:
    scene = Scene(8)
    site = scene.add("192.0.2.1", 1)
    scene.limiter.belongs_to(site, "north")
    for port in range(2, 40):
        scene.add(f"192.0.2.{port}", port)
    assert site not in scene.cut
    assert len(scene.limiter) == 8


def test_where_there_is_no_room_the_address_with_most_strangers_makes_some() -> None:
    scene = Scene(4)
    scene.add("192.0.2.1", 1)
    scene.add("192.0.2.2", 2)
    for port in (3, 4):
        scene.limiter.belongs_to(scene.add("192.0.2.3", port), "north")
    scene.add("192.0.2.4", 5)
    assert scene.cut == [("192.0.2.1", 1)]


def test_a_sites_connection_that_was_unused_for_longest_makes_room_for_its_next() -> None:
    scene = Scene(16, of_site=2)
    first, second, third = (scene.add("192.0.2.1", port) for port in range(3))
    scene.limiter.belongs_to(first, "north")
    scene.limiter.belongs_to(second, "north")
    scene.limiter.belongs_to(first, "north")  # it is used again
    scene.limiter.belongs_to(third, "north")
    assert scene.cut == [second]
    assert scene.refused == [("north", "192.0.2.1")]


def test_where_all_are_sites_the_one_that_holds_most_makes_room() -> None:
    scene = Scene(4)
    for port, site in enumerate(("north", "south", "south", "south")):
        scene.limiter.belongs_to(scene.add("192.0.2.1", port), site)
    west = scene.add("192.0.2.1", 9)
    scene.limiter.belongs_to(west, "west")
    assert scene.cut == [("192.0.2.1", 1)]


def test_who_stays_a_stranger_is_cut_off_and_who_was_let_in_is_not() -> None:
    scene = Scene(16)
    belongs_to, stranger = scene.add("192.0.2.1", 1), scene.add("192.0.2.1", 2)
    scene.limiter.belongs_to(belongs_to, "north")
    late = scene.add("192.0.2.1", 3, now=1.0)
    scene.limiter.end_late_strangers(STRANGER_SECONDS + 0.5)
    assert scene.cut == [stranger]
    scene.limiter.became_stranger(belongs_to, STRANGER_SECONDS + 0.5)
    scene.limiter.end_late_strangers(STRANGER_SECONDS + 1.5)
    assert scene.cut == [stranger, late]
    scene.limiter.end_late_strangers(2 * STRANGER_SECONDS + 1.0)
    assert scene.cut == [stranger, late, belongs_to]
    assert len(scene.limiter) == 0


def test_an_address_is_told_apart_as_far_as_its_owner_cannot_choose_it() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2%eth0")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("somewhere") == "somewhere"


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["add", "belongs_to", "became_stranger", "remove"]), st.integers(0, 14)
    ),
    min_size=80,
    max_size=160,
)


@given(moves=MOVES)
def test_whatever_happens_no_limit_is_passed_and_no_place_is_lost(
    moves: list[tuple[str, int]],
) -> None:
    scene = Scene(8, of_site=3)
    connections: dict[Client, HeldConnection] = {}

    def gone(client: Client) -> Callable[[], object]:
        return lambda: connections.pop(client, None)

    for move, number in moves:
        client = (f"192.0.2.{number % 5}", number)
        if move == "add" and client not in connections:
            connections[client] = scene.limiter.add(client, 0.0, gone(client))
        elif move == "belongs_to":
            scene.limiter.belongs_to(client, f"site-{number % 2}")
        elif move == "became_stranger":
            scene.limiter.became_stranger(client, 0.0)
        elif move == "remove" and client in connections:
            scene.limiter.remove(connections.pop(client))
        held = list(connections.values())
        assert len(scene.limiter) == len(held) <= 8
        sites = [place.site for place in held if place.site is not None]
        assert all(sites.count(site) <= 3 for site in sites)
        strangers = [place.network for place in held if place.site is None]
        assert all(strangers.count(network) <= 2 for network in strangers)
