"""The open store: all its parts over one database."""

from __future__ import annotations

from server.store.database import Database
from server.store.events import EventStore
from server.store.results import ResultStore
from server.store.sites import SiteStore
from server.store.studies import StudyStore


class CoordinatorStore(SiteStore, StudyStore, ResultStore, EventStore):
    """The coordinator's store: sites, studies and their results.

    Threads share one; each process opens its own. What a method has written is on the disk when
    it returns. Close it, or use it as a context manager.

    Args:
        database: open, with the newest schema.
    """

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> CoordinatorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(url: str) -> CoordinatorStore:
    """Open a store; make it, or upgrade its schema, if needed.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/DATABASE``.

    Raises:
        CoordinatorError: it cannot be opened, or a newer version made it.
    """
    return CoordinatorStore(Database(url))
