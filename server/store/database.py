"""The store's database: SQLite in a file, or PostgreSQL.

On both, only one transaction writes at a time, over all processes: with SQLite by ``BEGIN
IMMEDIATE``, with PostgreSQL by an advisory lock. So what a writing transaction has read stays true
until it ends, and events become visible in the order of their numbers: without the lock, a watcher
could miss an event with a lower number that is committed later. What is committed is on the disk.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from common.errors import CoordinatorError

MIGRATIONS: Final = Path(__file__).parent / "migrations"
WAIT_SECONDS: Final = 30
"""How long a transaction waits for one of another process."""
_LOCK: Final = 0x434F4E53
"""The number of PostgreSQL's advisory lock for writing: "CONS", any number would do."""
_migrating = threading.Lock()
"""Alembic keeps its state in a module, once per process: two threads must not migrate at once."""


class StoreAway(CoordinatorError):  # noqa: N818 - a state of the store, by its name
    """The database cannot be used now; it may work again without any action."""


class Database:
    """An open database with the newest schema.

    Args:
        url: ``sqlite:///…`` or ``postgresql+psycopg://…``.

    Raises:
        StoreAway: it cannot be opened.
        CoordinatorError: a newer version made it.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        with self._translated():
            self._engine = _engine(self._url)
            try:
                self._upgrade()
            except BaseException:
                self._engine.dispose()
                raise

    @property
    def place(self) -> str:
        """Where it is, without the password."""
        if self._url.get_backend_name() == "sqlite":
            return str(self._url.database)
        return self._url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads.

        Raises:
            StoreAway: the database cannot be read.
        """
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: durable when this ends, or undone as a whole.

        Raises:
            StoreAway: the database cannot be written.
        """
        writer = self._engine.execution_options(writes=True)
        with self._translated(), writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close its connections; those in use close when they are given back."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, CommandError, OSError) as cause:
            raise StoreAway(
                "the coordinator's store cannot be used",
                where=self.place,
                found=self._without_password(cause),
                remedy="check that the file or the server exists, has free space, and that this "
                "account may write to it",
            ) from cause

    def _without_password(self, cause: Exception) -> str:
        told = cause.orig if isinstance(cause, DBAPIError) and cause.orig else cause
        lines = str(told).strip().splitlines()
        line = lines[0] if lines else type(told).__name__
        hidden = [self._url.password, self._url.query.get("password")]
        for secret in hidden:
            line = line.replace(str(secret), "***") if secret else line
        return line

    def _upgrade(self) -> None:
        # In a writing transaction: of two processes that start at once, one upgrades.
        with _migrating, self.write() as connection:
            config = _config(connection)
            script = ScriptDirectory.from_config(config)
            found = MigrationContext.configure(connection).get_current_heads()
            known = {each.revision for each in script.walk_revisions()}
            # An older program must not write to tables whose meaning it does not know.
            if not set(found) <= known:
                raise CoordinatorError(
                    "the coordinator's store was made by a newer Consilium",
                    where=self.place,
                    found=f"schema {', '.join(found)}",
                    wanted=f"schema {script.get_current_head()}",
                    remedy="install that newer version, or restore an older backup",
                )
            if found != tuple(script.get_heads()):
                alembic.command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    # ConfigParser reads % as the beginning of an interpolation.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is not None and url.drivername == "postgresql":
        # SQLAlchemy's own default is psycopg2, which is not installed.
        url = url.set(drivername="postgresql+psycopg")
    # An in-memory database would be another one in each process.
    memory = url is not None and url.database in {None, "", ":memory:"}
    drivers = {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}
    if url is None or url.drivername not in drivers or (url.drivername[:6] == "sqlite" and memory):
        raise CoordinatorError(
            "this is not the URL of a database",
            where="[store] url",
            found=url.drivername if url is not None else None,
            wanted="sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE",
        )
    return url


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        file = Path(str(url.database))
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite would make the file readable for others, and so its -wal and -shm. Never opened
        # where it exists: closing it would drop this process's locks on it.
        with suppress(FileExistsError):
            file.touch(mode=0o600, exist_ok=False)
        engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    # pre_ping: a server that was restarted leaves dead connections in the pool.
    engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    event.listen(engine, "connect", _prepare_postgresql)
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions: _begin_sqlite does
    # WAL: readers do not wait for the writer. FULL: with WAL, NORMAL could lose the last commits
    # at a power failure.
    _use_wal(connection)
    for setting in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _use_wal(connection: sqlite3.Connection) -> None:
    # SQLite's own timeout is not for this one: while another process writes the first tables, it
    # is refused at once.
    last = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as refused:
            if refused.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                raise
            time.sleep(0.05)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _: object) -> None:  # noqa: ANN401 - any DBAPI's
    connection.execute(f"SET lock_timeout = '{WAIT_SECONDS}s'")
    # Otherwise the first rollback would undo the SET.
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("writes", False):
        connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": _LOCK})
