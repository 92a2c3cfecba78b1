"""The database under the store: opened, upgraded, refused; nothing acknowledged is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from common.errors import CoordinatorError
from server.store import CoordinatorStore, open_store
from server.store.database import Database
from server.store.models import METADATA
from tests.server.store.conftest import card
from tests.server.store.postgres import PASSWORD, Server

SPAWN = """
import sys
from server.store import open_store
"""


def worker(root: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own, which says ``ready`` and waits for a line before it goes on."""
    begin = "print('ready', flush=True)\nsys.stdin.readline()\n"
    command = [sys.executable, "-c", SPAWN + begin + program, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=root, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def go(workers: list[subprocess.Popen[str]]) -> list[str]:
    """Let all go on at the same time; what each then printed."""
    for each in workers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in workers:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    done = [each.communicate() for each in workers]
    assert [each.returncode for each in workers] == [0] * len(workers), done
    return [out for out, _ in done]


def test_the_migrations_lead_to_exactly_the_models(store_url: str) -> None:
    database = Database(store_url)
    with database.write() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_the_check_of_the_migrations_finds_what_is_missing(store_url: str) -> None:
    database = Database(store_url)
    with database.write() as connection:
        connection.execute(text("DROP TABLE metrics"))
        connection.execute(text("DROP INDEX ix_events_kind"))
        connection.execute(text("ALTER TABLE sites ADD COLUMN shoe_size INTEGER"))
        found = {
            each[0] for each in compare_metadata(MigrationContext.configure(connection), METADATA)
        }
    database.close()
    assert found == {"add_table", "add_index", "remove_column"}


def test_what_was_written_is_there_after_reopening(store_url: str) -> None:
    with open_store(store_url) as store:
        store.admit(card("north", 1))
    with open_store(store_url) as store:
        assert [site.name for site in store.sites()] == ["north"]


def test_a_transaction_is_all_or_nothing(store_url: str) -> None:
    database = Database(store_url)
    with pytest.raises(KeyboardInterrupt), database.write() as connection:
        connection.execute(
            text("INSERT INTO events (at, kind, fields) VALUES ('2026-01-01', 'x', '')")
        )
        raise KeyboardInterrupt
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar() == 0
    database.close()


def test_many_processes_may_make_the_same_store_at_once(root: Path, store_url: str) -> None:
    program = "open_store(sys.argv[1]).record(None, 'opened')"
    go([worker(root, program, store_url) for _ in range(3)])

    with open_store(store_url) as store:
        assert len(store.events()) == 3


def test_a_store_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(file, check_same_thread=False)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            closing(sqlite3.connect(file, timeout=30)) as impatient,
        ):
            impatient.execute("PRAGMA journal_mode = WAL")
        done = Timer(0.5, other.execute, ["COMMIT"])
        done.start()
        with open_store(f"sqlite:///{file}") as store:
            assert store.events() == ()
        done.join()


def test_a_killed_writer_leaves_what_it_was_told_is_written(root: Path, store_url: str) -> None:
    program = """
store = open_store(sys.argv[1])
while True:
    print(store.record(None, 'written'), flush=True)
"""
    process = worker(root, program, store_url)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    told += [int(line) for line in process.stdout.read().splitlines()]  # also what was buffered
    process.wait()

    with open_store(store_url) as store:
        written = {event.id for event in store.events(limit=100_000)}
        assert written >= set(told)
        assert store.record(None, "after") > max(told)


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(store_url: str) -> None:
    database = Database(store_url)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    for _ in range(2):
        with pytest.raises(CoordinatorError, match="newer Consilium") as caught:
            open_store(store_url)
        assert caught.value.details["found"] == "schema 9999"
        assert "install that newer version" in caught.value.details["do"]


def _setting(connection: Connection, name: str) -> object:
    return connection.execute(text(f"PRAGMA {name}")).scalar()


def test_sqlite_is_made_for_power_cuts(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.sqlite")
    for transaction in (database.read, database.write):
        with transaction() as connection:
            assert _setting(connection, "journal_mode") == "wal"
            assert _setting(connection, "synchronous") == 2
            assert _setting(connection, "foreign_keys") == 1
            assert _setting(connection, "busy_timeout") == 30_000
    database.close()


def test_all_files_of_sqlite_are_their_owners_alone(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/state/store.sqlite"):
        files = list((tmp_path / "state").iterdir())
        modes = {each.name: each.stat().st_mode & 0o777 for each in files}
    assert modes.keys() >= {"store.sqlite", "store.sqlite-wal"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" * 200])
def test_a_file_that_is_no_store_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(CoordinatorError, match="store cannot be used") as caught:
        open_store(f"sqlite:///{path}")
    assert caught.value.details["where"] == str(path)
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CoordinatorError) as caught:
        open_store(f"sqlite:///{tmp_path}")
    assert caught.value.details["where"] == str(tmp_path)


def test_a_store_that_another_program_holds_is_an_error_a_person_understands(
    tmp_path: Path,
) -> None:
    """A store without room or rights says so in the same way: it is the database that says it."""
    with open_store(f"sqlite:///{tmp_path}/store.sqlite") as store:
        other = sqlite3.connect(tmp_path / "store.sqlite")
        other.execute("DROP TABLE events")
        other.close()
        with pytest.raises(CoordinatorError, match="store cannot be used") as caught:
            store.record(None, "x")
    assert "no such table" in caught.value.details["found"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://u@h/d",
        "postgresql+psycopg2://h/d",
    ],
)
def test_what_is_no_store_says_what_one_is(url: str) -> None:
    with pytest.raises(CoordinatorError, match=r"postgresql\+psycopg://"):
        open_store(url)


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    for url in (
        f"postgresql+psycopg://u:{PASSWORD}@/db?host={tmp_path}",
        f"postgresql://u@/db?host={tmp_path}&password={PASSWORD}",
    ):
        with pytest.raises(CoordinatorError, match="store cannot be used") as caught:
            open_store(url)
        assert PASSWORD not in str(caught.value)
        assert caught.value.details["where"].startswith("postgresql+psycopg://u")


def test_a_wrong_password_is_not_shown(postgresql: Server) -> None:
    url = postgresql.new_database().replace(PASSWORD, "wr0ng-one")
    with pytest.raises(CoordinatorError) as caught:
        open_store(url)
    assert "password authentication failed" in caught.value.details["found"]
    assert "wr0ng-one" not in str(caught.value)


def test_a_password_is_not_in_the_place(store: CoordinatorStore) -> None:
    assert PASSWORD not in store._database.place  # noqa: SLF001 - named in its errors


def test_a_lost_connection_costs_one_error_at_most(postgresql: Server) -> None:
    """The server ended all connections, as when it is restarted: the next call has a new one."""
    with open_store(postgresql.new_database()) as store:
        store.record(None, "before")
        with postgresql.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        store.record(None, "after")
        assert [event.kind for event in store.events()] == ["before", "after"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/store.sqlite").close()
    (tmp_path / "store.sqlite").chmod(0o400)
    with (
        pytest.raises(CoordinatorError, match="lets us write"),
        open_store(f"sqlite:///{tmp_path}/store.sqlite") as store,
    ):
        store.record(None, "x")
