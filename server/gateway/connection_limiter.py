"""The connections that are held, whose they are, and who has to go where there is no room.

A connection is a stranger's until a request on it was let in, and again once one was refused
for who sent it. A newcomer is never turned away; another makes room for it. Where its own
address, or its own site, holds as many as it may, that is the one of these that was unused for
longest. Where there is no room at all, it is one of the address that holds most as a stranger,
and only where there is no stranger one of the site that holds most. So whoever holds connections
without end keeps nobody out: no stranger a site, and no site another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

STRANGERS: Final = 0.25
"""Part of all connections that one address may hold without having shown an admitted key."""
STRANGER_SECONDS: Final = 30.0
"""How long a connection may be a stranger's, the agreeing on TLS included."""
IPV6_NETWORK: Final = 64
"""Bits of an IPv6 address that name who calls; the rest, every machine chooses for itself."""
Client = tuple[str, int]
"""Address and port of who called."""


@dataclass(eq=False)
class HeldConnection:
    """What one connection takes up.

    Attributes:
        client: who called.
        network: their address, as far as it tells callers apart.
        since: when it became a stranger's, seconds on a clock that never goes back.
        cut: ends the connection.
        site: whose it is, once that is known.
    """

    client: Client
    network: str
    since: float
    cut: Callable[[], object] = field(repr=False)
    site: str | None = None


class ConnectionLimiter:
    """All places.

    Args:
        most: connections at once.
        of_site: connections of one site at once.
        refused: called with the site, where it is known, and the address of each connection that
            had to make room.
    """

    def __init__(self, most: int, of_site: int, refused: Callable[[str | None, str], None]) -> None:
        self._most = most
        self._of_site = of_site
        self._share = max(1, int(most * STRANGERS))
        self._refused = refused
        self._places: dict[Client, HeldConnection] = {}
        self._strangers: dict[str, dict[HeldConnection, None]] = {}
        self._sites: dict[str, dict[HeldConnection, None]] = {}

    def __len__(self) -> int:
        """Connections that are held."""
        return len(self._places)

    def enter(self, client: Client, now: float, cut: Callable[[], object]) -> HeldConnection:
        """Hold a connection from now on; another one may be cut for it."""
        place = HeldConnection(client, network_of(client[0]), now, cut)
        there = self._strangers.get(place.network, {})
        if len(there) >= self._share:
            self._make_room(there)
        elif len(self._places) >= self._most:
            self._make_room(_largest(self._strangers) or _largest(self._sites))
        self._places[client] = place
        self._strangers.setdefault(place.network, {})[place] = None
        return place

    def known(self, client: Client, site: str) -> None:
        """A request of a site was let in on a connection, which is its from now on."""
        place = self._places.get(client)
        if place is None:
            return
        if place.site is None:
            mine = self._sites.get(site, {})
            if len(mine) >= self._of_site:
                self._make_room(mine)
            _drop(self._strangers, place.network, place)
            place.site = site
        mine = self._sites.setdefault(place.site, {})
        mine.pop(place, None)  # so that the order is that of use
        mine[place] = None

    def doubt(self, client: Client, now: float) -> None:
        """Who sent a request on a connection was not let in: it is a stranger's."""
        place = self._places.get(client)
        if place is None or place.site is None:
            return
        _drop(self._sites, place.site, place)
        place.site, place.since = None, now
        there = self._strangers.setdefault(place.network, {})
        if len(there) >= self._share:
            self._make_room(there)
        self._strangers.setdefault(place.network, {})[place] = None

    def leave(self, place: HeldConnection) -> None:
        """A connection has ended."""
        if self._places.get(place.client) is place:
            del self._places[place.client]
        if place.site is None:
            _drop(self._strangers, place.network, place)
        else:
            _drop(self._sites, place.site, place)

    def tidy(self, now: float) -> None:
        """End what was a stranger's for too long."""
        over = now - STRANGER_SECONDS
        late = [
            place for there in self._strangers.values() for place in there if place.since < over
        ]
        for place in late:
            self._end(place)

    def _make_room(self, places: dict[HeldConnection, None]) -> None:
        """End the one that was there, or unused, for longest."""
        place = next(iter(places))
        self._refused(place.site, place.client[0])
        self._end(place)

    def _end(self, place: HeldConnection) -> None:
        self.leave(place)  # the place is free at once, whenever the socket is
        place.cut()


def network_of(address: str) -> str:
    """What of an address tells who calls."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_NETWORK), strict=False))


def _largest(places: dict[str, dict[HeldConnection, None]]) -> dict[HeldConnection, None]:
    return max(places.values(), key=len, default={})


def _drop(places: dict[str, dict[HeldConnection, None]], name: str, place: HeldConnection) -> None:
    there = places.get(name, {})
    there.pop(place, None)
    if not there:
        places.pop(name, None)
