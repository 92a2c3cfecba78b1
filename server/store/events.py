"""The events in the store, numbered in the order in which they became visible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, insert, select

from common.documents import read_json
from server.store.database import Database
from server.store.models import EVENTS
from server.store.rows import EventRecord


class EventStore:
    """The events of the store."""

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
        """Write an event; gives its number.

        Args:
            study: that it is about, if any.
            kind: as in the log, ``round.completed``.
            round: that it is about, if any.
            site: that it is about, if any.
            fields: all else, as JSON values.

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
        """Events in order. A watcher asks for those after the last one it has seen.

        Args:
            study: of one study; ``None`` for all events, those of no study too.
            after: the number of an event; only later ones are given.
            limit: the most events to give.
            kind: only events of this kind.
        """
        query = select(EVENTS).where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
        if study is not None:
            query = query.where(EVENTS.c.study == study)
        if kind is not None:
            query = query.where(EVENTS.c.kind == kind)
        with self._database.read() as connection:
            return tuple(map(_event, connection.execute(query).mappings()))


def _event(row: RowMapping) -> EventRecord:
    return EventRecord(**{**row, "fields": read_json(row["fields"])})
