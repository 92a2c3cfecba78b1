"""The coordinator's store: the database of sites, studies and their results.

``store`` opens it; ``rows`` are its records. ``sites``, ``studies``, ``results`` and ``events``
are its parts over one ``database``; ``models`` has the tables and ``migrations`` their changes.
"""

from __future__ import annotations

from server.store.database import StoreAway
from server.store.rows import StudyRecord, StudyState
from server.store.store import CoordinatorStore, open_store

__all__ = ["CoordinatorStore", "StoreAway", "StudyRecord", "StudyState", "open_store"]
