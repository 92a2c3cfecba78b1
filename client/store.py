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

SCHEMA_VERSION: Final = 3
LOG_HEAD: Final = "audit-log"
"""The fact under which the audit log's head stands: its length and its hash."""
_PATIENCE_SECONDS: Final = 60.0
"""How long to wait for another process of the site: freezing a large cohort takes seconds."""
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
        FROM members WHERE part != 'test' GROUP BY patient
    ) AS stood USING (patient) WHERE part != 'test'
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
_SINCE_3: Final = """
CREATE TABLE approvals_3 (
    plan_hash TEXT PRIMARY KEY,
    study TEXT NOT NULL,
    plan TEXT NOT NULL,
    cohort TEXT NOT NULL,
    study_key BLOB,
    state TEXT NOT NULL CHECK (
        state IN ('pending', 'approved', 'denied', 'stopped', 'withdrawn', 'closed')
    ),
    proposed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    decided_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    decided_by TEXT NOT NULL DEFAULT '',
    expires_at TEXT
) STRICT;
INSERT INTO approvals_3
    SELECT plan_hash, study, plan, cohort, study_key, state, decided_at, decided_at,
        CASE state WHEN 'pending' THEN '' ELSE 'policy' END, NULL
    FROM approvals ORDER BY rowid;
DROP TABLE approvals;
ALTER TABLE approvals_3 RENAME TO approvals;
CREATE TABLE members_3 (
    plan_hash TEXT NOT NULL REFERENCES approvals,
    patient TEXT NOT NULL,
    part TEXT NOT NULL CHECK (part IN ('train', 'validation', 'test')),
    present INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (patient, plan_hash, part)
) STRICT, WITHOUT ROWID;
INSERT INTO members_3 (plan_hash, patient, part) SELECT plan_hash, patient, part FROM members;
DROP TABLE members;
ALTER TABLE members_3 RENAME TO members;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
DELETE FROM replies; -- signed before there was an audit log: nobody would believe them now
"""
"""A patient who left a cohort stays a member: what was released about him was."""
_STEPS: Final = (_SCHEMA, _SINCE_2, _SINCE_3)


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
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=_PATIENCE_SECONDS
            )
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
            self._bring_up_to_date(path)
        elif found != SCHEMA_VERSION:
            raise SiteError(
                "the site's store was made by another version of Consilium",
                where=path,
                found=f"schema {found}",
                wanted=f"schema {SCHEMA_VERSION}",
                remedy="install the version that made it",
            )

    def _bring_up_to_date(self, path: Path) -> None:
        """Make what is missing, in one transaction.

        Tables are replaced as SQLite's documentation of ALTER TABLE prescribes: with foreign
        keys off, so that what refers to a table is not touched while it is away. Another
        process may have been faster: the version is read again under the lock.
        """
        self._connection.execute("PRAGMA foreign_keys = OFF")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            for statement in _statements("".join(_STEPS[found:])):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self.erase()  # the old tables held study keys, and so does the write-ahead log
        sync_folder(path.parent)

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

    def fact(self, name: str) -> str:
        """What is kept under a name; empty where nothing is."""
        row = self.execute("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return str(row["value"]) if row else ""

    def keep(self, name: str, value: str) -> None:
        """Keep a value under a name, in place of the one before."""
        self.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

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


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: unlike ``executescript`` it commits nothing."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
