"""The coordinator's store: the truth about sites, studies and what became of them.

``store`` opens it; ``rows`` is what comes out. ``sites``, ``studies``, ``results`` and
``events`` are its parts over one ``database``, whose tables stand in ``models`` and change by
``migrations``.
"""

from __future__ import annotations

from server.store.database import StoreAway
from server.store.store import CoordinatorStore, open_store

__all__ = ["CoordinatorStore", "StoreAway", "open_store"]
