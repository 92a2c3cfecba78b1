"""A site's durable memory: whole after anything, readable by its owner alone."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest

from client.records.store import SiteDatabase
from common.errors import SiteError
from tests.common.studies import exit_code

APPROVAL = "INSERT INTO approvals (plan_hash, study, plan, state) VALUES (?, 's', 'p', ?)"
MEMBER = "INSERT INTO members (plan_hash, patient, part, digest, since, until) VALUES "


def plans(path: Path) -> list[str]:
    with SiteDatabase(path) as store:
        return [
            row["plan_hash"]
            for row in store.execute("SELECT plan_hash FROM approvals ORDER BY rowid")
        ]


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "new" / "site.sqlite") as store:
        store.execute(APPROVAL, "one", "approved")
    assert plans(tmp_path / "new" / "site.sqlite") == ["one"]


def test_it_is_made_for_power_cuts(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        settings = {
            name: store.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }


def test_all_its_files_are_its_owners_alone(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        store.execute(APPROVAL, "one", "approved")
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    assert modes.keys() >= {"site.sqlite", "site.sqlite-wal"}
    assert set(modes.values()) == {0o600}


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite"
    with SiteDatabase(path) as store:
        with pytest.raises(KeyboardInterrupt), store.transaction():
            store.execute(APPROVAL, "one", "approved")
            raise KeyboardInterrupt
        with store.transaction():
            store.execute(APPROVAL, "two", "approved")
            store.execute(APPROVAL, "three", "pending")
    assert plans(path) == ["two", "three"]


def test_a_transaction_within_another_is_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite"
    with SiteDatabase(path) as store, pytest.raises(KeyboardInterrupt), store.transaction():
        with store.transaction():
            store.execute(APPROVAL, "one", "approved")
        raise KeyboardInterrupt
    assert plans(path) == []


def test_a_full_disk_in_a_large_transaction_is_told_as_what_it_is(tmp_path: Path) -> None:
    """SQLite undoes such a transaction by itself; undoing it again fails with other words."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
        try:
            with pytest.raises(sqlite3.OperationalError) as caught, store.transaction():
                for number in range(2000):  # more than SQLite keeps in memory
                    store.keep(f"fact {number}", "x" * 3000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
        with store.transaction():
            store.execute(APPROVAL, "one", "approved")
        assert not store.fact("fact 0")
    assert plans(tmp_path / "site.sqlite") == ["one"]


def test_a_kill_in_a_transaction_undoes_it_and_one_after_it_undoes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite"

    def child() -> None:
        store = SiteDatabase(path)
        with store.transaction():
            store.execute(APPROVAL, "kept", "approved")
        with store.transaction():
            store.execute(APPROVAL, "lost", "approved")
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(child) == -signal.SIGKILL
    assert plans(path) == ["kept"]


def test_what_was_overwritten_is_in_no_file_after_erasing(tmp_path: Path) -> None:
    key = bytes(range(100, 132))
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        store.execute(APPROVAL, "one", "approved")
        store.execute("UPDATE approvals SET study_key = ?", key)
        assert any(key in each.read_bytes() for each in tmp_path.iterdir())
        store.execute("UPDATE approvals SET study_key = NULL")
        store.erase()
        assert not any(key in each.read_bytes() for each in tmp_path.iterdir())


def test_a_state_outside_the_list_and_a_charge_of_no_plan_are_refused(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.execute(APPROVAL, "one", "perhaps")
        with pytest.raises(sqlite3.IntegrityError):
            store.execute(MEMBER + "('unknown plan', 'patient', 'train', '', 0, NULL)")


def test_a_patient_is_in_a_plan_once_and_leaves_no_earlier_than_it_came(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        store.execute(APPROVAL, "one", "approved")
        store.execute(MEMBER + "('one', 'patient', 'train', '', 0, 2)")
        store.execute(MEMBER + "('one', 'patient', 'train', '', 3, NULL)")
        with pytest.raises(sqlite3.IntegrityError):
            store.execute(MEMBER + "('one', 'patient', 'validation', '', 3, NULL)")
        with pytest.raises(sqlite3.IntegrityError):
            store.execute(MEMBER + "('one', 'another', 'train', '', 3, 2)")


def test_a_file_that_is_no_store_is_an_error_that_instructs(tmp_path: Path) -> None:
    (tmp_path / "site.sqlite").write_bytes(b"not a database, and long enough to be sure of it" * 50)
    with pytest.raises(SiteError, match="cannot be read") as caught:
        SiteDatabase(tmp_path / "site.sqlite")
    assert "restore the latest full backup" in caught.value.details["do"]


def test_a_file_that_cannot_be_opened_is_no_reason_to_restore_a_backup(tmp_path: Path) -> None:
    """An older ledger has forgotten what patients have spent."""
    (tmp_path / "site.sqlite").mkdir()
    with pytest.raises(SiteError, match="cannot be opened") as caught:
        SiteDatabase(tmp_path / "site.sqlite")
    assert "Restore no backup" in caught.value.details["do"]


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        store.execute("PRAGMA user_version = 99")
    with pytest.raises(SiteError, match="another version") as caught:
        SiteDatabase(tmp_path / "site.sqlite")
    assert caught.value.details["found"] == "schema 99"


def test_a_fact_is_kept_in_place_of_the_one_before(tmp_path: Path) -> None:
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        assert store.fact("paused") == ""
        store.keep("paused", "by somebody")
        store.keep("paused", "by nobody")
    with SiteDatabase(tmp_path / "site.sqlite") as store:
        assert store.fact("paused") == "by nobody"
