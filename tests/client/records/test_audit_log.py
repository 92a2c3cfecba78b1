"""The audit log: whole lines or none, from any number of processes, and no change unnoticed."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.records import audit_log
from client.records.audit_log import AuditHead, AuditLog
from client.records.receipts import Receipt
from client.records.seals import Seals
from client.records.verify import Verdict, inspect
from common.files import sha256
from common.wire.messages import HASH_OF_NOTHING, LedgerHead, receipt_bytes
from common.wire.signing import SigningKey
from tests.common.studies import exit_code

KEY, COORDINATOR = SigningKey(b"n" * 32), SigningKey(b"c" * 32)
JOINED = {COORDINATOR.public: "K7QM-2XNF-PA4T-9CRD"}
LINES = 6


@contextmanager
def opened(folder: Path, key: SigningKey = KEY) -> Iterator[AuditLog]:
    log = AuditLog(folder, key)
    try:
        yield log
    finally:
        log.close()


def filled(folder: Path, key: SigningKey = KEY) -> bytes:
    """A log of some lines."""
    with opened(folder, key) as log:
        for number in range(1, LINES + 1):
            log.append("message.in", study="small", round=number, epsilon=0.25 * number, why="é")
    return (folder / audit_log.FILE).read_bytes()


def receipt(log: bytes, length: int) -> tuple[int, Receipt]:
    """The coordinator's receipt for the first lines of a log."""
    lines = log.split(b"\n")
    head = AuditHead(length, sha256(lines[length - 1]) if length else HASH_OF_NOTHING)
    return 1, receipt_for(Seals(KEY).seal(LedgerHead(), head))


def receipt_for(seal: str, by: SigningKey = COORDINATOR, site: str = "north") -> Receipt:
    signature = by.sign(receipt_bytes(site, LedgerHead(), seal))
    return Receipt(site, by.public, LedgerHead(), seal, signature)


def verdict(log: bytes, receipted: int = 0, of: bytes = b"") -> Verdict:
    kept = [receipt(of or log, receipted)] if receipted else []
    return inspect(log, site="north", key=KEY, coordinators=JOINED, kept=kept)


with tempfile.TemporaryDirectory() as _folder:
    LOG = filled(Path(_folder))


def test_a_line_names_the_one_before_and_the_head_is_the_last(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        heads = [log.head, log.append("one", number_of="things"), log.append("two")]
        assert [log.hash_at(length) for length in range(4)] == [*(h.hash for h in heads), None]
        assert log.head == heads[-1] == AuditHead(2, heads[-1].hash)
    first, second = audit_log.entries(tmp_path)
    assert (first.number, first.event, first.fields) == (1, "one", {"number_of": "things"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.at)
    assert (first.hash, second.hash) == (heads[1].hash, heads[2].hash)
    assert [entry.number for entry in audit_log.entries(tmp_path, after=1)] == [2]
    assert (tmp_path / audit_log.FILE).stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_it_was_left(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path) as log:
        assert log.append("more").length == LINES + 1
        second = (tmp_path / audit_log.FILE).read_bytes().split(b"\n")[1]
        assert log.hash_at(2) == sha256(second)
    found = verdict((tmp_path / audit_log.FILE).read_bytes())
    assert found.sound
    assert found.head.length == LINES + 1


def test_processes_that_write_at_once_make_one_chain(tmp_path: Path) -> None:
    filled(tmp_path)
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            log = AuditLog(tmp_path, KEY)
            for number in range(20):
                log.append("message.in", pid=os.getpid(), round=number)
            os._exit(0)
        children.append(pid)
    with opened(tmp_path) as log:
        for number in range(20):
            log.append("message.out", round=number)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 3
        assert log.refresh().length == LINES + 80
    found = verdict((tmp_path / audit_log.FILE).read_bytes())
    assert (found.faults, found.head.length) == ((), LINES + 80)


def test_a_kill_while_writing_leaves_whole_lines_and_is_no_tampering(tmp_path: Path) -> None:
    def child() -> None:
        log = AuditLog(tmp_path, KEY)
        log.append("message.in", round=1)
        with log.path.open("ab", buffering=0) as file:
            file.write(b'{"at":"2026-01-01T00:00:00.000000Z","eve')
        os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(child) == -signal.SIGKILL
    torn = verdict((tmp_path / audit_log.FILE).read_bytes())
    assert (torn.sound, torn.torn, torn.head.length) == (True, 40, 1)
    with opened(tmp_path) as log:
        log.append("message.in", round=2)
    assert [entry.event for entry in audit_log.entries(tmp_path)] == [
        "message.in",
        "log.repaired",
        "message.in",
    ]
    mended = verdict((tmp_path / audit_log.FILE).read_bytes())
    assert (mended.sound, mended.torn) == (True, 0)
    assert (tmp_path / audit_log.TORN).read_bytes().startswith(b'{"at":"2026')


def test_what_another_process_left_half_written_is_set_aside_too(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.append("one")
        with (tmp_path / audit_log.FILE).open("ab") as other:
            other.write(b'{"at":')
        log.append("two")
    assert [entry.event for entry in audit_log.entries(tmp_path)] == ["one", "log.repaired", "two"]
    assert verdict((tmp_path / audit_log.FILE).read_bytes()).sound


def test_a_line_that_does_not_fit_on_the_disk_does_not_count(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""

    def child() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = AuditLog(tmp_path, KEY)
        log.append("one")
        size = (tmp_path / audit_log.FILE).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, -1))
        with pytest.raises(OSError, match="File too large"):
            log.append("two")
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        log.append("three")

    assert exit_code(child) == 0
    assert [entry.event for entry in audit_log.entries(tmp_path)] == ["one", "three"]
    assert verdict((tmp_path / audit_log.FILE).read_bytes()).sound


@pytest.mark.parametrize("how", ["cut", "emptied", "removed", "replaced"])
def test_a_log_that_loses_lines_under_a_running_site_shows_it(tmp_path: Path, how: str) -> None:
    path = tmp_path / audit_log.FILE
    with opened(tmp_path) as log:
        for number in range(3):
            log.append("message.in", round=number)
        lines = path.read_bytes().splitlines(keepends=True)
        if how == "removed":
            path.unlink()
        elif how == "replaced":
            other = tmp_path / "other"
            other.write_bytes(b"".join(lines[:2]))
            other.replace(path)
        else:
            os.truncate(path, len(lines[0]) if how == "cut" else 0)
        log.append("message.in", round=3)
    assert not verdict(path.read_bytes()).sound


def test_a_log_that_cannot_be_opened_again_is_still_held_and_closes(tmp_path: Path) -> None:
    state, away = tmp_path / "state", tmp_path / "away"
    state.mkdir()
    with opened(state) as log:
        log.append("one")
        state.rename(away)
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                log.append("lost")
        # The number of a descriptor that was closed is given to the next file that is opened.
        other = os.open(away / "other", os.O_RDWR | os.O_CREAT)
        away.rename(state)
        log.append("two")
    assert os.fstat(other).st_size == 0
    os.close(other)
    assert [entry.event for entry in audit_log.entries(state)] == ["one", "two"]
    assert verdict((state / audit_log.FILE).read_bytes()).sound


def test_a_sound_log_has_no_fault() -> None:
    found = verdict(LOG, receipted=LINES)
    assert found.faults == ()
    assert (found.head.length, found.receipts, found.receipted, found.torn) == (LINES, 1, LINES, 0)
    assert verdict(b"").sound


@given(st.integers(0, len(LOG) - 1), st.integers(1, 255))
@settings(max_examples=600)
def test_any_single_byte_that_is_changed_is_found(place: int, change: int) -> None:
    altered = bytearray(LOG)
    altered[place] ^= change
    assert not verdict(bytes(altered)).sound


@given(st.data())
def test_any_two_lines_that_are_swapped_are_found(data: st.DataObject) -> None:
    lines = LOG.splitlines(keepends=True)
    one = data.draw(st.integers(0, LINES - 2))
    other = data.draw(st.integers(one + 1, LINES - 1))
    lines[one], lines[other] = lines[other], lines[one]
    found = verdict(b"".join(lines))
    assert found.faults[0].line == one + 1


@given(st.sets(st.integers(1, LINES), min_size=1, max_size=LINES - 1), st.integers(1, LINES))
def test_lines_that_are_removed_are_found_up_to_the_last_receipt(
    gone: set[int], receipted: int
) -> None:
    lines = LOG.splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines, start=1) if number not in gone]
    found = verdict(b"".join(kept), receipted, of=LOG)
    is_tail = gone == set(range(min(gone), LINES + 1))
    assert found.sound == (is_tail and min(gone) > receipted)


@pytest.mark.parametrize("gone", range(1, LINES))
def test_a_line_that_is_gone_is_one_fact_and_each_receipt_no_other(gone: int) -> None:
    lines = LOG.splitlines(keepends=True)
    log = b"".join(lines[: gone - 1] + lines[gone:])
    kept = [receipt(LOG, length) for length in range(1, LINES)]
    found = inspect(log, site="north", key=KEY, coordinators=JOINED, kept=kept)
    first, *more = found.faults
    assert (first.line, first.file) == (gone, audit_log.FILE)
    assert f"one or more lines are missing before line {gone}" in first.what
    (fact,) = more
    assert "rewritten" in fact.what
    others = LINES - gone - 1
    assert (f"{others} more receipts show the same" in fact.what) == bool(others)


@given(st.integers(0, len(LOG) - 1), st.integers(1, LINES))
def test_any_cut_below_a_receipt_is_found(end: int, receipted: int) -> None:
    """Above it, a cut that ends within a line cannot be told from a crash."""
    found = verdict(LOG[:end], receipted, of=LOG)
    whole = LOG[:end].count(b"\n")
    assert found.sound == (whole >= receipted)
    if not found.sound:
        assert "its tail was cut" in found.faults[-1].what


@given(st.integers(0, LINES - 1), st.binary(min_size=1, max_size=40))
def test_a_line_that_is_put_in_is_found(place: int, line: bytes) -> None:
    lines = LOG.splitlines(keepends=True)
    lines.insert(place, line.replace(b"\n", b"") + b"\n")
    assert not verdict(b"".join(lines)).sound


def test_a_log_that_was_cut_and_written_on_is_found(tmp_path: Path) -> None:
    (tmp_path / audit_log.FILE).write_bytes(b"".join(LOG.splitlines(keepends=True)[:2]))
    with opened(tmp_path) as log:
        for number in range(LINES):
            log.append("message.in", round=number)
    found = verdict((tmp_path / audit_log.FILE).read_bytes(), receipted=4, of=LOG)
    (fault,) = found.faults
    assert fault.file == "receipts.jsonl"
    assert "rewritten" in fault.what


def test_another_sites_log_is_found(tmp_path: Path) -> None:
    (fault,) = verdict(filled(tmp_path, SigningKey(b"s" * 32))).faults
    assert "another site" in fault.what


def test_a_receipt_that_was_made_up_is_found() -> None:
    _, sound = receipt(LOG, 3)
    forged = replace(sound, seal=Seals(KEY).seal(LedgerHead(), AuditHead(4, "00" * 32)))
    for kept, what in ((forged, "signature is invalid"), (None, "not a receipt")):
        found = inspect(LOG, site="north", key=KEY, coordinators=JOINED, kept=[(7, kept)])
        assert [(each.line, each.file) for each in found.faults] == [(7, "receipts.jsonl")]
        assert what in found.faults[0].what


def test_a_receipt_by_a_made_up_key_is_found() -> None:
    """A log that was cut comes with receipts that fit it: whose are they?"""
    cut = b"".join(LOG.splitlines(keepends=True)[:3])
    _, fitting = receipt(cut, 3)
    made_up = receipt_for(fitting.seal, SigningKey(b"x" * 32))
    found = inspect(cut, site="north", key=KEY, coordinators=JOINED, kept=[(1, made_up)])
    (fault,) = found.faults
    assert "no coordinator that this site has joined" in fault.what
    assert found.coordinators == ()


def test_a_receipt_for_what_the_site_never_sealed_accuses_nobody_but_who_signed_it() -> None:
    """A coordinator can sign that the site had more; the site's own log stays as sound as it is."""
    never = Seals(SigningKey(b"x" * 32)).seal(LedgerHead(), AuditHead(99, "00" * 32))
    kept = [receipt(LOG, 3), (2, receipt_for(never))]
    found = inspect(LOG, site="north", key=KEY, coordinators=JOINED, kept=kept)
    assert (found.faults, found.receipted) == ((), 3)
    (told,) = found.disputed
    assert "receipts.jsonl, line 2" in told
    assert JOINED[COORDINATOR.public] in told
    assert "this site never had" in told


def test_another_sites_receipt_is_found() -> None:
    other = Seals(SigningKey(b"s" * 32)).seal(LedgerHead(), AuditHead(3, "00" * 32))
    kept = [(4, receipt_for(other, site="south"))]
    found = inspect(LOG, site="north", key=KEY, coordinators=JOINED, kept=kept)
    assert [(each.line, each.what) for each in found.faults] == [
        (4, "this receipt belongs to another site")
    ]
    assert found.disputed == ()


def test_a_receipt_holds_under_whatever_name_the_site_had(tmp_path: Path) -> None:
    """A site that was renamed is held to what it sent before."""
    head = AuditHead(LINES + 5, "00" * 32)
    kept = [(1, receipt_for(Seals(KEY).seal(LedgerHead(), head), site="before"))]
    (fault,) = inspect(LOG, site="north", key=KEY, coordinators=JOINED, kept=kept).faults
    assert "its tail was cut" in fault.what


def test_the_newest_charge_that_a_line_names_is_known_wherever_it_stands(tmp_path: Path) -> None:
    """Also beyond what is read back at an opening, and from another process's lines."""
    heads = [LedgerHead(number, f"{number:064}") for number in range(3)]
    with opened(tmp_path) as log, opened(tmp_path) as other:
        assert log.charged == LedgerHead()
        for head in heads[1:]:
            other.append(audit_log.CHARGED, charge=head.length, head=head.hash)
        log.append("message.in", why='"event":"round.charged"', text="x" * 2**17)
        assert log.charged == heads[2]
    with opened(tmp_path) as log:
        assert log.charged == heads[2]
        log.append("message.in")
    with opened(tmp_path) as log:
        assert log.charged == heads[2]


@pytest.mark.parametrize("by", [KEY, SigningKey(b"s" * 32)])
def test_receipts_of_a_coordinator_that_was_joined_before_hold_by_the_sites_own_word(
    tmp_path: Path, by: SigningKey
) -> None:
    said = {"fingerprint": "0000-0000-0000-0000", "signing_key": COORDINATOR.public}
    with opened(tmp_path, by) as log:
        log.append("coordinator.joined", name="centre", **said)
    with opened(tmp_path) as log:
        log.append("message.in", study="small")
    lines = (tmp_path / audit_log.FILE).read_bytes()
    found = inspect(lines, site="north", key=KEY, kept=[receipt(lines, 2)])
    assert found.sound == (by is KEY)
    assert found.coordinators == (("0000-0000-0000-0000",) if by is KEY else ())


def test_every_line_is_on_the_disk_when_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that tells of a torn end; and what was torn before it is cut off."""
    synced: dict[tuple[int, int], int] = {}
    really = os.fsync

    def syncing(file: int) -> None:
        really(file)
        found = os.fstat(file)
        synced[found.st_dev, found.st_ino] = found.st_size

    def is_on_disk(name: str) -> bool:
        found = (tmp_path / name).stat()
        return synced.get((found.st_dev, found.st_ino)) == found.st_size

    monkeypatch.setattr(os, "fsync", syncing)
    with opened(tmp_path) as log:
        assert (tmp_path.stat().st_dev, tmp_path.stat().st_ino) in synced, "the file's name is kept"
        for number in range(3):
            log.append("message.in", round=number)
            assert is_on_disk(audit_log.FILE)
        with (tmp_path / audit_log.FILE).open("ab") as other:
            other.write(b'{"at":')
        assert not is_on_disk(audit_log.FILE)
        log.refresh()
        assert is_on_disk(audit_log.FILE)
        assert is_on_disk(audit_log.TORN)
