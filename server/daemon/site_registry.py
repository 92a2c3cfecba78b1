"""Who may come in: the store's list of sites, as the gateway asks for it at every request.

It is kept in memory and changed together with the store, so that a site that was suspended is
refused from the next request on. A node's number is Flower's, and another after each start of
the SuperLink; a node is never unregistered there, since its key could not come back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from server.gateway.authentication import Admitted
from server.store.rows import SiteRecord, SiteState

ONLINE_SECONDS: Final = 75.0
"""A site that has not called for so long is offline: it calls at least every 30 s."""


class SiteRegistry:
    """The sites, by key and by node."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Admitted] = {}
        self._by_node: dict[int, Admitted] = {}
        self._seen: dict[str, float] = {}

    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        """Whose key this is; None where nobody's."""
        return self._by_key.get(node_key_pem)

    def enter(self, site: SiteRecord, node_id: int) -> None:
        """Know a site by its node, or know it anew; a key that it had before is forgotten."""
        for key in [key for key, known in self._by_key.items() if known.name == site.name]:
            self._by_node.pop(self._by_key.pop(key).node_id, None)
        active = site.state is SiteState.ACTIVE
        known = Admitted(site.name, node_id, "admitted" if active else "suspended")
        self._by_key[site.node_key.encode()] = self._by_node[node_id] = known

    def change(self, site: SiteRecord) -> bool:
        """Take over whether a known site may come in; False where it is not known yet."""
        known = self._by_key.get(site.node_key.encode())
        if known is None:
            return False
        self.enter(site, known.node_id)
        return True

    def heard(self, node_id: int) -> str | None:
        """A node's request was let in; gives the site where it had not been there before."""
        known = self._by_node.get(node_id)
        if known is None or known.state == "suspended":
            return None
        came = not self.is_online(known.name)
        self._seen[known.name] = time.monotonic()
        return known.name if came else None

    def is_online(self, name: str) -> bool:
        """Whether a site has called of late."""
        return time.monotonic() - self._seen.get(name, -ONLINE_SECONDS) < ONLINE_SECONDS

    def gone(self, name: str) -> tuple[int, ...]:
        """A site was suspended, and is not online any more; gives its nodes."""
        self._seen.pop(name, None)
        return tuple(node for node, known in self._by_node.items() if known.name == name)

    @property
    def online(self) -> Mapping[str, bool]:
        """Each site that may come in, and whether it has called of late."""
        return {
            known.name: self.is_online(known.name)
            for known in self._by_key.values()
            if known.state == "admitted"
        }
