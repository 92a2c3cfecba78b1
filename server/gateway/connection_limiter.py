"""Which connections the gateway holds, and which one is closed when there is no room.

A connection is a *stranger's* until a request on it was let in, and becomes a stranger's again
when a request on it is refused because of who sent it. A new connection is never refused:
another one is closed for it.

- If the new one's address, or its site, holds its maximum: the one of these that was not used
  for longest.
- If the gateway holds its maximum: one of the address with most strangers; only when there is
  no stranger, one of the site with most connections.

So nobody can keep others out by holding connections: strangers cannot keep out a site, and a
site cannot keep out another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

# A quarter, so that it takes four addresses to fill the gateway, and not one.
STRANGERS: Final = 0.25
"""Part of all connections that one address may hold without having shown an admitted key."""
STRANGER_SECONDS: Final = 30.0
"""How long a connection may be a stranger's, TLS handshake included."""
# A provider gives each customer a /64 network: with single addresses as the unit, one caller
# would have 2**64 of them.
IPV6_NETWORK: Final = 64
"""Bits of an IPv6 address that tell callers apart."""
Client = tuple[str, int]
"""Address and port of the caller."""


@dataclass(eq=False)
class HeldConnection:
    """One connection.

    Attributes:
        client: the caller.
        network: the caller's address, as far as it tells callers apart.
        since: when it became a stranger's, seconds on a monotonic clock.
        cut: ends the connection.
        site: the site that it belongs to, once that is known.
    """

    client: Client
    network: str
    since: float
    cut: Callable[[], object] = field(repr=False)
    site: str | None = None


# A dict keeps insertion order: its first connection is the one that was not used for longest.
Groups = dict[str, dict[HeldConnection, None]]


class ConnectionLimiter:
    """All connections of the gateway.

    Args:
        most: connections at once.
        of_site: connections of one site at once.
        refused: called with the site, where it is known, and the address of each connection that
            was closed to make room.
    """

    def __init__(self, most: int, of_site: int, refused: Callable[[str | None, str], None]) -> None:
        self._most = most
        self._of_site = of_site
        self._share = max(1, int(most * STRANGERS))
        self._refused = refused
        self._connections: dict[Client, HeldConnection] = {}
        self._strangers: Groups = {}
        self._sites: Groups = {}

    def __len__(self) -> int:
        """Number of connections."""
        return len(self._connections)

    def add(self, client: Client, now: float, cut: Callable[[], object]) -> HeldConnection:
        """Hold a connection from now on; another one may be closed for it."""
        connection = HeldConnection(client, network_of(client[0]), now, cut)
        same_network = self._strangers.get(connection.network, {})
        if len(same_network) >= self._share:
            self._make_room(same_network)
        elif len(self._connections) >= self._most:
            self._make_room(_largest(self._strangers) or _largest(self._sites))
        self._connections[client] = connection
        self._strangers.setdefault(connection.network, {})[connection] = None
        return connection

    def belongs_to(self, client: Client, site: str) -> None:
        """A request of a site was let in on a connection: it is this site's from now on."""
        connection = self._connections.get(client)
        if connection is None:
            return
        if connection.site is None:
            same_site = self._sites.get(site, {})
            if len(same_site) >= self._of_site:
                self._make_room(same_site)
            _drop(self._strangers, connection.network, connection)
            connection.site = site
        # It counts for the first site that used it, even if another one's request follows.
        same_site = self._sites.setdefault(connection.site, {})
        same_site.pop(connection, None)  # so that the order is that of use
        same_site[connection] = None

    def became_stranger(self, client: Client, now: float) -> None:
        """A request was refused because of who sent it: the connection is a stranger's."""
        connection = self._connections.get(client)
        if connection is None or connection.site is None:
            return
        _drop(self._sites, connection.site, connection)
        connection.site, connection.since = None, now
        same_network = self._strangers.setdefault(connection.network, {})
        if len(same_network) >= self._share:
            self._make_room(same_network)
        self._strangers.setdefault(connection.network, {})[connection] = None

    def remove(self, connection: HeldConnection) -> None:
        """A connection has ended."""
        # The same address and port may have connected again before the old socket's end is seen.
        if self._connections.get(connection.client) is connection:
            del self._connections[connection.client]
        if connection.site is None:
            _drop(self._strangers, connection.network, connection)
        else:
            _drop(self._sites, connection.site, connection)

    def end_late_strangers(self, now: float) -> None:
        """End each connection that was a stranger's for too long."""
        over = now - STRANGER_SECONDS
        late = [
            connection
            for same_network in self._strangers.values()
            for connection in same_network
            if connection.since < over
        ]
        for connection in late:
            self._end(connection)

    def _make_room(self, connections: dict[HeldConnection, None]) -> None:
        """End the one that is oldest, or was not used for longest."""
        connection = next(iter(connections))
        self._refused(connection.site, connection.client[0])
        self._end(connection)

    def _end(self, connection: HeldConnection) -> None:
        self.remove(connection)  # it stops counting at once, even if its socket closes later
        connection.cut()


def network_of(address: str) -> str:
    """The part of an address that tells callers apart."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])  # without an IPv6 zone
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_NETWORK), strict=False))


def _largest(groups: Groups) -> dict[HeldConnection, None]:
    return max(groups.values(), key=len, default={})


def _drop(groups: Groups, name: str, connection: HeldConnection) -> None:
    group = groups.get(name, {})
    group.pop(connection, None)
    if not group:
        groups.pop(name, None)
