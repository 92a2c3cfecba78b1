"""The tables of the coordinator's store, the same on SQLite and PostgreSQL.

A change here needs a migration (``server/store/migrations``); a test holds that all
migrations together lead to exactly these tables.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

from common.wire.messages import SEAL_DIGITS


class Moment(TypeDecorator[datetime]):
    """A time with its zone. SQLite has no zones: there it is stored as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# A slug: names of sites and studies have 1 to 63 characters.
NAME: Final = String(63)
# SHA-256, or an Ed25519 key, in hexadecimal.
HASH: Final = String(64)
SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
"""Numbered by the database. SQLite does so only for type INTEGER, which has the same range."""

SITES: Final = Table(
    "sites",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("admitted_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("last_seen", Moment),
)
KEYS: Final = Table(
    "keys",
    METADATA,
    Column("id", SERIAL, primary_key=True),
    Column("site", NAME, ForeignKey("sites.name"), nullable=False, index=True),
    # Unique over all time: a retired key stays here, and is never admitted again.
    Column("node_key", Text, nullable=False, unique=True),
    Column("signing_key", HASH, nullable=False, index=True),
    Column("added_at", Moment, nullable=False),
    Column("retired_at", Moment),
    sqlite_autoincrement=True,
)
"""A site's keys over time. One is in use; the others are retired and never used again."""
AGREED: Final = Table(
    "agreed",
    METADATA,
    Column("site", NAME, ForeignKey("sites.name"), primary_key=True),
    Column("dataset", NAME, primary_key=True),
    Column("declared", BigInteger),
    Column("patients", BigInteger, nullable=False),
)
"""The agreed number of patients of a site's data set, and the number on its card, if any."""
STUDIES: Final = Table(
    "studies",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("document", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
)
PARTICIPANTS: Final = Table(
    "participants",
    METADATA,
    Column("study", NAME, ForeignKey("studies.name"), primary_key=True),
    Column("site", NAME, ForeignKey("sites.name"), primary_key=True),
)
ROUNDS: Final = Table(
    "rounds",
    METADATA,
    Column("study", NAME, ForeignKey("studies.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("purpose", String(16), primary_key=True),
    Column("sites", Text, nullable=False),
    Column("absences", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("completed_at", Moment, nullable=False),
)
APPROVALS: Final = Table(
    "approvals",
    METADATA,
    Column("study", NAME, ForeignKey("studies.name"), primary_key=True),
    Column("site", NAME, ForeignKey("sites.name"), primary_key=True),
    Column("plan_hash", HASH, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Column("changed_at", Moment, nullable=False),
)
METRICS: Final = Table(
    "metrics",
    METADATA,
    Column("study", NAME, ForeignKey("studies.name"), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("figures", Text, nullable=False),
    Column("recorded_at", Moment, nullable=False),
)
RECEIPTS: Final = Table(
    "receipts",
    METADATA,
    Column("id", SERIAL, primary_key=True),
    Column("site", NAME, ForeignKey("sites.name"), nullable=False),
    Column("study", NAME, ForeignKey("studies.name"), nullable=False),
    Column("ledger_length", BigInteger, nullable=False),
    Column("ledger_hash", HASH, nullable=False),
    Column("seal", String(SEAL_DIGITS), nullable=False),
    # The site's key at that time: with new keys a site begins a new ledger.
    Column("signing_key", HASH, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("signed_at", Moment, nullable=False),
    # For the receipt for a site's longest ledger.
    Index("ix_receipts_site_ledger_length", "site", "ledger_length"),
    sqlite_autoincrement=True,
)
EVENTS: Final = Table(
    "events",
    METADATA,
    Column("id", SERIAL, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("study", NAME, ForeignKey("studies.name")),
    Column("kind", String(64), nullable=False, index=True),
    Column("round", Integer),
    Column("site", NAME),
    Column("fields", Text, nullable=False),
    Index("ix_events_study_id", "study", "id"),
    # SQLite would otherwise use the number of a deleted last event again, and a watcher that asks
    # for events after that number would miss one.
    sqlite_autoincrement=True,
)
