"""A real PostgreSQL server for tests: its own files, its own socket, no port."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg
import pytest
from psycopg import sql

from tests.waiting import PATIENCE

USER = "consilium"
PASSWORD = "s3cret-of-the-store"


@dataclass
class Server:
    """A running server.

    Attributes:
        folder: where its socket is.
    """

    folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.folder), user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        )

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"store{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql+psycopg://{USER}:{PASSWORD}@/{name}?host={self.folder}"

    @contextmanager
    def away(self, url: str) -> Iterator[None]:
        """Be gone for whoever uses this database: all connections end, and no new one is taken."""
        name = url.split("@/")[1].split("?", maxsplit=1)[0]
        change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS ").format(sql.Identifier(name))
        with self.connect() as connection:
            connection.execute(change + sql.SQL("false"))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            try:
                yield
            finally:
                connection.execute(change + sql.SQL("true"))


def binaries() -> Path | None:
    """The folder of the newest server that is installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def running() -> Iterator[Server]:
    """Start a server, and stop it."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        _make(programs, folder)
        with (folder / "log").open("wb") as log, _start(programs, folder, log) as process:
            try:
                server = Server(folder)
                _wait(server, process)
                yield server
            finally:
                process.send_signal(signal.SIGQUIT)  # at once: nothing in it is needed again
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str | None:
    """Who runs it: PostgreSQL refuses to be run by root."""
    return "nobody" if os.geteuid() == 0 else None


def _make(programs: Path, folder: Path) -> None:
    password = folder / "password"
    password.write_text(PASSWORD)
    user = _user()
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(password, user)
    command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", USER, "--no-sync"]
    more = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--pwfile={password}"]
    subprocess.run([*command, *more], user=user, cwd=folder, check=True, capture_output=True)


def _start(programs: Path, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    settings = ["-c", "listen_addresses=", "-c", "fsync=off"]
    return subprocess.Popen([*command, *settings], user=_user(), cwd=folder, stdout=log, stderr=log)


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            server.connect().close()
        except psycopg.OperationalError:
            assert process.poll() is None, (server.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)
        else:
            return
