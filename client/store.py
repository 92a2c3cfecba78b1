"""A site's durable memory: one SQLite file that survives a power cut.

Write-ahead log, ``synchronous = FULL``, foreign keys, and ``secure_delete`` so that an
erased study key does not linger in a free page. Approvals, ledger and stored replies share
it, so that a charge is committed and its reply stored in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from common.errors import SiteError
from common.files import sync_folder

SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE approvals (
    plan_hash TEXT PRIMARY KEY,
    study TEXT NOT NULL,
    plan TEXT NOT NULL,
    cohort TEXT NOT NULL,
    study_key BLOB,
    state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'closed')),
    decided_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;
CREATE TABLE members (
    plan_hash TEXT NOT NULL REFERENCES approvals,
    patient TEXT NOT NULL,
    part TEXT NOT NULL CHECK (part IN ('train', 'validation')),
    PRIMARY KEY (patient, plan_hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE charges (
    length INTEGER PRIMARY KEY,
    hash TEXT NOT NULL,
    plan_hash TEXT NOT NULL REFERENCES approvals,
    round INTEGER NOT NULL,
    part TEXT NOT NULL CHECK (part IN ('train', 'validation')),
    identity TEXT NOT NULL UNIQUE,
    sampling_rate REAL,
    noise_multiplier REAL,
    count INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'committed')),
    reserved_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE (plan_hash, round, part)
) STRICT;
CREATE TABLE replies (
    identity TEXT PRIMARY KEY,
    plan_hash TEXT NOT NULL REFERENCES approvals,
    round INTEGER NOT NULL,
    reply BLOB NOT NULL
) STRICT;
"""
HISTORIES: Final = """
INSERT INTO histories
    SELECT DISTINCT plan_hash, stood.history FROM members JOIN (
        SELECT patient, group_concat(plan_hash || ' ' || part, ',') AS history
        FROM members GROUP BY patient
    ) AS stood USING (patient)
"""
"""Fills the table ``histories``, which follows from ``members``."""
_SINCE_2: Final = f"""
CREATE INDEX charges_by_event
    ON charges (plan_hash, part, sampling_rate, noise_multiplier, count);
CREATE TABLE costs (
    accountant TEXT NOT NULL,
    sampling_rate REAL NOT NULL,
    noise_multiplier REAL NOT NULL,
    divergences BLOB NOT NULL,
    PRIMARY KEY (accountant, sampling_rate, noise_multiplier)
) STRICT, WITHOUT ROWID;
CREATE TABLE histories (
    plan_hash TEXT NOT NULL REFERENCES approvals,
    history TEXT NOT NULL,
    PRIMARY KEY (plan_hash, history)
) STRICT, WITHOUT ROWID;
{HISTORIES};
"""


class Store:
    """An open site store; close it, or use it as a context manager.

    Args:
        path: of the SQLite file; made if absent, readable by its owner alone.

    Raises:
        SiteError: the file is not a store, or was made by another version.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._prepare(path)
        except sqlite3.DatabaseError as error:
            raise SiteError(
                "the site's store cannot be read",
                where=path,
                found=error,
                remedy="bring back a backup of the state folder; open rounds count as spent",
            ) from error

    def _prepare(self, path: Path) -> None:
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("PRAGMA secure_delete = ON")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found < SCHEMA_VERSION:
            missing = _SINCE_2 if found else _SCHEMA + _SINCE_2
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
            sync_folder(path.parent)
        elif found != SCHEMA_VERSION:
            raise SiteError(
                "the site's store was made by another version of Consilium",
                where=path,
                found=f"schema {found}",
                wanted=f"schema {SCHEMA_VERSION}",
                remedy="install the version that made it",
            )

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run one statement; outside a transaction it is durable when this returns."""
        return self._connection.execute(statement, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are durable together, or none is."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def erase(self) -> None:
        """Leave no trace of what was overwritten: the write-ahead log still holds it.

        Call it outside a transaction.
        """
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; a statement after this is an error."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
