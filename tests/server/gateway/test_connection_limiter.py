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


class Door:
    """A crowd, and what became of whom."""

    def __init__(self, most: int, of_site: int = 3) -> None:
        self.cut: list[Client] = []
        self.refused: list[tuple[str | None, str]] = []
        self.crowd = ConnectionLimiter(
            most, of_site, lambda site, address: self.refused.append((site, address))
        )

    def enter(self, address: str, port: int, now: float = 0.0) -> Client:
        client = (address, port)
        self.crowd.enter(client, now, lambda: self.cut.append(client))
        return client


def test_at_one_address_the_strangers_that_were_there_first_make_room() -> None:
    door = Door(16)
    for port in range(6):
        door.enter("192.0.2.1", port)
    assert door.cut == [("192.0.2.1", 0), ("192.0.2.1", 1)]
    assert door.refused == [(None, "192.0.2.1")] * 2
    assert len(door.crowd) == 4


def test_a_site_counts_for_no_address_and_strangers_do_not_move_it() -> None:
    door = Door(8)
    site = door.enter("192.0.2.1", 1)
    door.crowd.known(site, "north")
    for port in range(2, 40):
        door.enter(f"192.0.2.{port}", port)
    assert site not in door.cut
    assert len(door.crowd) == 8


def test_where_there_is_no_room_the_address_with_most_strangers_makes_some() -> None:
    door = Door(4)
    door.enter("192.0.2.1", 1)
    door.enter("192.0.2.2", 2)
    for port in (3, 4):
        door.crowd.known(door.enter("192.0.2.3", port), "north")
    door.enter("192.0.2.4", 5)
    assert door.cut == [("192.0.2.1", 1)]


def test_a_sites_connection_that_was_unused_for_longest_makes_room_for_its_next() -> None:
    door = Door(16, of_site=2)
    first, second, third = (door.enter("192.0.2.1", port) for port in range(3))
    door.crowd.known(first, "north")
    door.crowd.known(second, "north")
    door.crowd.known(first, "north")  # it is used again
    door.crowd.known(third, "north")
    assert door.cut == [second]
    assert door.refused == [("north", "192.0.2.1")]


def test_where_all_are_sites_the_one_that_holds_most_makes_room() -> None:
    door = Door(4)
    for port, site in enumerate(("north", "south", "south", "south")):
        door.crowd.known(door.enter("192.0.2.1", port), site)
    west = door.enter("192.0.2.1", 9)
    door.crowd.known(west, "west")
    assert door.cut == [("192.0.2.1", 1)]


def test_who_stays_a_stranger_is_cut_off_and_who_was_let_in_is_not() -> None:
    door = Door(16)
    known, stranger = door.enter("192.0.2.1", 1), door.enter("192.0.2.1", 2)
    door.crowd.known(known, "north")
    late = door.enter("192.0.2.1", 3, now=1.0)
    door.crowd.tidy(STRANGER_SECONDS + 0.5)
    assert door.cut == [stranger]
    door.crowd.doubt(known, STRANGER_SECONDS + 0.5)
    door.crowd.tidy(STRANGER_SECONDS + 1.5)
    assert door.cut == [stranger, late]
    door.crowd.tidy(2 * STRANGER_SECONDS + 1.0)
    assert door.cut == [stranger, late, known]
    assert len(door.crowd) == 0


def test_an_address_is_told_apart_as_far_as_its_owner_cannot_choose_it() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2%eth0")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("somewhere") == "somewhere"


MOVES = st.lists(
    st.tuples(st.sampled_from(["enter", "known", "doubt", "leave"]), st.integers(0, 14)),
    min_size=80,
    max_size=160,
)


@given(moves=MOVES)
def test_whatever_happens_no_limit_is_passed_and_no_place_is_lost(
    moves: list[tuple[str, int]],
) -> None:
    door = Door(8, of_site=3)
    places: dict[Client, HeldConnection] = {}

    def gone(client: Client) -> Callable[[], object]:
        return lambda: places.pop(client, None)

    for move, number in moves:
        client = (f"192.0.2.{number % 5}", number)
        if move == "enter" and client not in places:
            places[client] = door.crowd.enter(client, 0.0, gone(client))
        elif move == "known":
            door.crowd.known(client, f"site-{number % 2}")
        elif move == "doubt":
            door.crowd.doubt(client, 0.0)
        elif move == "leave" and client in places:
            door.crowd.leave(places.pop(client))
        held = list(places.values())
        assert len(door.crowd) == len(held) <= 8
        sites = [place.site for place in held if place.site is not None]
        assert all(sites.count(site) <= 3 for site in sites)
        strangers = [place.network for place in held if place.site is None]
        assert all(strangers.count(network) <= 2 for network in strangers)
