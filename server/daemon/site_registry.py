"""The sites that may connect: the store's list, as the gateway reads it at every request.

It is in memory and changes together with the store: a suspended site is refused from its next
request on. A node's number is Flower's, and a new one after each start of the SuperLink. A node is
never unregistered there, because Flower does not accept a removed key again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from server.gateway.authentication import Admitted
from server.store.rows import SiteRecord, SiteState

# Two lost calls do not make a site offline.
ONLINE_SECONDS: Final = 75.0
"""A site that has not called for this long is offline; it calls at least every 30 s."""


class SiteRegistry:
    """The sites, by key and by node."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Admitted] = {}
        self._by_node: dict[int, Admitted] = {}
        self._seen: dict[str, float] = {}

    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        """The site that a key belongs to; None if there is none."""
        return self._by_key.get(node_key_pem)

    def enter(self, site: SiteRecord, node_id: int) -> None:
        """Add a site with its node, or replace it; its earlier key is forgotten."""
        for key in [key for key, known in self._by_key.items() if known.name == site.name]:
            self._by_node.pop(self._by_key.pop(key).node_id, None)
        active = site.state is SiteState.ACTIVE
        known = Admitted(site.name, node_id, "admitted" if active else "suspended")
        self._by_key[site.node_key.encode()] = self._by_node[node_id] = known

    def change(self, site: SiteRecord) -> bool:
        """Update whether a site may connect; False if it has no node yet."""
        known = self._by_key.get(site.node_key.encode())
        if known is None:
            return False
        self.enter(site, known.node_id)
        return True

    def heard(self, node_id: int) -> str | None:
        """A node's request was let in; gives the site if it was offline before."""
        known = self._by_node.get(node_id)
        if known is None or known.state == "suspended":
            return None
        came = not self.is_online(known.name)
        self._seen[known.name] = time.monotonic()
        return known.name if came else None

    def is_online(self, name: str) -> bool:
        """Whether a site has called recently."""
        return time.monotonic() - self._seen.get(name, -ONLINE_SECONDS) < ONLINE_SECONDS

    def gone(self, name: str) -> tuple[int, ...]:
        """A site was suspended: it is offline now; gives its nodes."""
        self._seen.pop(name, None)
        return tuple(node for node, known in self._by_node.items() if known.name == name)

    @property
    def online(self) -> Mapping[str, bool]:
        """Each admitted site, and whether it has called recently."""
        return {
            known.name: self.is_online(known.name)
            for known in self._by_key.values()
            if known.state == "admitted"
        }
