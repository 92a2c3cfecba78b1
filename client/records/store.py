"""A site's durable memory: one SQLite file that survives a power cut.

Write-ahead log, ``synchronous = FULL``, foreign keys, and ``secure_delete``, which overwrites an
erased study key in the file. Approvals, ledger and stored replies are in the same file, so a
charge is committed and its reply is stored in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from common.errors import SiteError
from common.files import sync_folder

SCHEMA_VERSION: Final = 5
FILE: Final = "site.sqlite"
RESTORE: Final = "stop the daemon and restore the latest full backup of the state folder"
RESTORE_KEY: Final = (
    "stop the daemon and restore this key file from a backup, and nothing else: the ledger here is "
    "newer than any backup, and an older one has forgotten what patients have spent"
)
LOST: Final = (
    f"{RESTORE}. Without a backup this site cannot continue. A new site starts with an empty "
    "privacy ledger: your data protection officer must approve it, and it must set "
    "[policy] spent_before (docs/site.md)"
)
"""What to do when recorded charges are missing: the same budget must not be spent twice."""
KEPT_OUT: Final = (
    "run the command as the user of the daemon (sudo -u USER consilium-site ...), or free disk "
    "space. Restore no backup for this: an older ledger has forgotten what patients have spent"
)
_KEPT_OUT: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""What SQLite says of rights and disks, and not of what is in the file."""
_PATIENCE_SECONDS: Final = 60.0
"""How long to wait for another process of the site: freezing a large cohort takes seconds."""
_SCHEMA: Final = """
CREATE TABLE approvals (
    plan_hash TEXT PRIMARY KEY,
    study TEXT NOT NULL,
    plan TEXT NOT NULL,
    study_key BLOB,
    state TEXT NOT NULL CHECK (state IN
        ('pending', 'approved', 'expired', 'denied', 'stopped', 'closed')),
    frozen_at TEXT NOT NULL DEFAULT '',
    decoders TEXT NOT NULL DEFAULT '',
    left_out INTEGER NOT NULL DEFAULT 0,
    proposed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    decided_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    decided_by TEXT NOT NULL DEFAULT '',
    expires_at TEXT
) STRICT;
CREATE TABLE amendments (
    plan_hash TEXT NOT NULL REFERENCES approvals,
    number INTEGER NOT NULL,
    hash TEXT NOT NULL,
    amendment TEXT NOT NULL,
    decided_by TEXT NOT NULL DEFAULT '',
    decided_at TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (plan_hash, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE members (
    plan_hash TEXT NOT NULL REFERENCES approvals,
    patient TEXT NOT NULL,
    part TEXT NOT NULL CHECK (part IN ('train', 'validation', 'test')),
    digest TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER CHECK (until >= since),
    why TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX members_present ON members (plan_hash, patient) WHERE until IS NULL;
CREATE INDEX members_by_patient ON members (patient);
CREATE TABLE joins (
    patient TEXT NOT NULL,
    person TEXT NOT NULL,
    PRIMARY KEY (patient, person)
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
CREATE TABLE costs (
    accountant TEXT NOT NULL,
    sampling_rate REAL NOT NULL,
    noise_multiplier REAL NOT NULL,
    divergences BLOB NOT NULL,
    PRIMARY KEY (accountant, sampling_rate, noise_multiplier)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
"""A member pays the charges of the plan and part beyond ``since``, up to ``until``, which is
empty while the patient is in; both are lengths of the ledger."""


def ledger_lost(path: Path, found: str) -> SiteError:
    """The error for a record of charges that is missing or incomplete."""
    return SiteError(
        "the privacy ledger is missing or incomplete: what the patients have spent is unknown",
        where=path,
        found=found,
        wanted="the site.sqlite that belongs to the keys and the audit log in the same folder",
        remedy=LOST,
    )


@cache
def _made() -> tuple[tuple[str, ...], ...]:
    """The tables of a new store and their columns, and its indices."""
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(_SCHEMA)
        return _objects(empty)


@cache
def _blank() -> bytes:
    """A new store as bytes: a thousand simulated sites begin with copies of it."""
    with closing(sqlite3.connect(":memory:")) as empty:
        # Every table and index takes a page at least, and most of them hold next to nothing.
        empty.execute("PRAGMA page_size = 1024")
        empty.executescript(_SCHEMA)
        empty.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return empty.serialize()


def _objects(connection: sqlite3.Connection) -> tuple[tuple[str, ...], ...]:
    rows = connection.execute(
        "SELECT made.type, made.name, its.name, its.type FROM sqlite_master AS made"
        " LEFT JOIN pragma_table_info(made.name) AS its"
        " WHERE made.name NOT LIKE 'sqlite_%' ORDER BY made.name, its.cid"
    )
    return tuple(map(tuple, rows))


def is_whole(connection: sqlite3.Connection) -> bool:
    """Whether all tables of a store are there, and nothing else."""
    return _objects(connection) == _made()


class SiteDatabase:
    """An open site store; close it, or use it as a context manager.

    Args:
        path: of the SQLite file, readable by its owner alone; None for a store in memory, which
            ends with the process: a simulation's.
        make: whether one is made where there is none; else it must be there.

    Raises:
        SiteError: the file is not a store, was emptied, or was made by another version.
    """

    def __init__(self, path: Path | None, *, make: bool = True) -> None:
        if path is None:
            # Statements that are kept take more memory than all rows of a simulated site.
            self._connection = sqlite3.connect(
                ":memory:", isolation_level=None, cached_statements=0
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.deserialize(_blank())
            self._connection.execute("PRAGMA foreign_keys = ON")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if make:
            path.touch(
                mode=0o600
            )  # SQLite would make it with the umask, perhaps readable by others
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=_PATIENCE_SECONDS
            )
            self._connection.row_factory = sqlite3.Row
            self._prepare(path, make=make)
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _KEPT_OUT:
                raise SiteError(
                    "the site's database cannot be opened or written now",
                    where=path,
                    found=error,
                    wanted="a file and a folder that this user may write, on a disk with space",
                    remedy=KEPT_OUT,
                ) from error
            raise SiteError(
                "the site's database cannot be read",
                where=path,
                found=error,
                remedy=LOST,
            ) from error

    def _prepare(self, path: Path, *, make: bool) -> None:
        if not make and not self._connection.execute("PRAGMA user_version").fetchone()[0]:
            # Before the PRAGMAs below write to the file, which the administrator may still need.
            raise ledger_lost(path, "site.sqlite without tables")
        # FULL: with NORMAL a power cut may undo a committed charge whose noise is already computed,
        # and the patients would spend it again.
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        # An erased study key must not stay in a free page: with it, noise could be subtracted.
        self._connection.execute("PRAGMA secure_delete = ON")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            found = self._make(path)
        if found == SCHEMA_VERSION and not is_whole(self._connection):
            raise ledger_lost(path, "site.sqlite with missing or changed tables")
        if found != SCHEMA_VERSION:
            raise SiteError(
                "this site's database was made by another version of Consilium",
                where=path,
                found=f"schema {found}",
                wanted=f"schema {SCHEMA_VERSION}",
                remedy="install the version of Consilium that made it",
            )

    def _make(self, path: Path) -> int:
        """Make the tables in one transaction; gives the version that is there then.

        Another process may have been faster: the version is read again under the lock.
        """
        with self.transaction():
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            if found == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._connection.execute(statement)
                found = SCHEMA_VERSION
                self._connection.execute(f"PRAGMA user_version = {found}")
        sync_folder(path.parent)  # the new file's name must survive a power cut as well
        return int(found)

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run one statement; outside a transaction it is durable when this returns."""
        return self._connection.execute(statement, values)

    def execute_each(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row of values, in a transaction."""
        self._connection.executemany(statement, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are durable together, or none is; one within another joins it."""
        if self._connection.in_transaction:
            yield
            return
        # IMMEDIATE takes the write lock now. Otherwise two processes could both read the same head
        # of the ledger, and the second would fail when it writes.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:  # a KeyboardInterrupt too: half a charge must not stay open
            self._undo()
            raise

    def _undo(self) -> None:
        # On a full disk SQLite has undone it already, and a second time would be an error of its
        # own, in place of the one that says what is wrong.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def fact(self, name: str) -> str:
        """What is kept under a name; empty where nothing is."""
        row = self.execute("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return str(row["value"]) if row else ""

    def keep(self, name: str, value: str) -> None:
        """Keep a value under a name, in place of the one before."""
        self.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    def drop(self, name: str) -> None:
        """Keep nothing under a name."""
        self.execute("DELETE FROM facts WHERE name = ?", name)

    def erase(self) -> None:
        """Leave no trace of what was overwritten: the write-ahead log still holds it.

        Call it outside a transaction.
        """
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; a statement after this is an error."""
        self._connection.close()

    def __enter__(self) -> SiteDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
