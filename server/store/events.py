"""Events, as the store keeps them: numbered in the order in which they became visible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, func, insert, select

from common.documents import read_json
from server.store.database import Database
from server.store.models import EVENTS
from server.store.rows import EventRecord


class EventStore:
    """The part of the store that knows what happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        study: str | None,
        kind: str,
        *,
        round: int | None = None,
        site: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> int:
        """Write down an event; gives its number.

        Args:
            study: concerned, if one is.
            kind: as in the log, ``round.completed``.
            round: concerned, if one is.
            site: concerned, if one is.
            fields: the rest, as JSON can hold it.

        Raises:
            CoordinatorError: there is no such study.
        """
        values = {
            "at": datetime.now(UTC),
            "study": study,
            "kind": kind,
            "round": round,
            "site": site,
            "fields": json.dumps(dict(fields or {})),
        }
        with self._database.write() as connection:
            number = connection.execute(insert(EVENTS).values(values)).inserted_primary_key
            assert number is not None
            return int(number[0])

    def events(
        self,
        study: str | None = None,
        after: int = 0,
        limit: int = 1000,
        *,
        kind: str | None = None,
    ) -> tuple[EventRecord, ...]:
        """Events in their order. Whoever follows asks for those after the last one seen.

        Args:
            study: of one study; ``None`` for all events, those of no study too.
            after: number of the last event that is not wanted.
            limit: how many at most.
            kind: of one kind only.
        """
        query = select(EVENTS).where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
        if study is not None:
            query = query.where(EVENTS.c.study == study)
        if kind is not None:
            query = query.where(EVENTS.c.kind == kind)
        with self._database.read() as connection:
            return tuple(map(_event, connection.execute(query).mappings()))

    def newest_event(self) -> int:
        """The number of the newest event; 0 where there is none."""
        with self._database.read() as connection:
            return connection.execute(select(func.max(EVENTS.c.id))).scalar() or 0


def _event(row: RowMapping) -> EventRecord:
    return EventRecord(**{**row, "fields": read_json(row["fields"])})
