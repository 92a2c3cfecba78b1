"""The audit log: what came in, what went out, and what was decided, line after line.

``audit.jsonl`` in the state folder is only ever appended to. A line is one JSON object in canonical
form: its number, the SHA-256 of the line before, the time, the event, and an Ed25519 signature by
the site over all of that. A line counts when it is on disk. Several processes of a site may append:
each waits for the others' lock and continues from their last line.

A line that a crash left half written is moved to ``audit.torn`` and never counts: no head that
covers it was ever sent. The log never contains a patient's identifier, and stays at the hospital.
Its head (length and hash of the last line) goes out with every reply, sealed
(:mod:`client.records.seals`), so that nobody outside can tell how many lines there are.

Each charge of the ledger has a line, written after the charge is durable and before anything is
computed for it. So the log never names a charge that the store of that moment lacks: a store that
lacks one was emptied, or is an older copy.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from common.documents import read_json
from common.files import canonical_json, sha256, sync_folder
from common.wire.messages import HASH_OF_NOTHING, LedgerHead
from common.wire.signing import SigningKey

FILE: Final = "audit.jsonl"
TORN: Final = "audit.torn"
CHARGED: Final = "round.charged"
"""The event that names a charge: its number, and the ledger's head with it."""
_CHARGED: Final = b'"event":"round.charged"'
"""Its bytes in a line. In a text value the quotation marks would be escaped, so no text matches."""
_REMEMBERED: Final = 4096
"""Hashes of the newest lines that are kept in memory: receipts are about these, and each request
would otherwise read the file from its beginning."""
_BLOCK: Final = 2**16
_FRAME: Final = frozenset({"number", "previous", "at", "event", "signature"})


@dataclass(frozen=True)
class AuditHead:
    """How far the log had come: its length and the hash of its last line."""

    length: int = 0
    hash: str = HASH_OF_NOTHING


@dataclass(frozen=True)
class Entry:
    """One line of the log.

    Attributes:
        number: from 1.
        at: when, ISO 8601 in UTC.
        event: what happened.
        fields: more about it.
        hash: SHA-256 of the line, without its end.
    """

    number: int
    at: str
    event: str
    fields: dict[str, Any] = field(repr=False)
    hash: str


def signed_part(line: dict[str, Any]) -> bytes:
    """What the signature of a line covers: all the rest of it."""
    rest = {name: value for name, value in line.items() if name != "signature"}
    return b"consilium/1 audit " + canonical_json(rest)


class AuditLog:
    """The audit log of one site, open for appending.

    Args:
        folder: the state folder.
        key: the site's.
    """

    def __init__(self, folder: Path, key: SigningKey) -> None:
        self._folder, self._key = folder, key
        self._head, self._end = AuditHead(), 0
        self._charged = LedgerHead()
        self._recent: OrderedDict[int, str] = OrderedDict()
        self._file = self._opened()
        with self._locked():
            self._find_end()

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / FILE

    @property
    def keeps(self) -> bool:
        """Whether its lines can be read later."""
        return True

    @property
    def head(self) -> AuditHead:
        """The last line that this process has written or read."""
        return self._head

    @property
    def charged(self) -> LedgerHead:
        """The newest charge that a line names: its number, and the ledger's head with it."""
        return self._charged

    def refresh(self) -> AuditHead:
        """The head, what other processes have appended included."""
        self._follow()
        with self._locked():
            self._catch_up()
        return self._head

    def append(self, event: str, **fields: object) -> AuditHead:
        """Write a line; it is on the disk when this returns.

        Args:
            event: what happened.
            fields: JSON values; a patient's identifier is never among them.

        Returns:
            The head, this line included.

        Raises:
            OSError: the line could not be written, and does not count.
        """
        self._follow()
        with self._locked():
            self._catch_up()
            return self._write(event, fields)

    def hash_at(self, length: int) -> str | None:
        """The hash that the head had at a length; None beyond the end."""
        if length == 0:
            return HASH_OF_NOTHING
        if length > self._head.length:
            return None
        if length in self._recent:
            return self._recent[length]
        with self.path.open("rb") as file:
            line = next(islice(file, length - 1, length), None)
        return None if line is None else sha256(line.rstrip(b"\n"))

    def close(self) -> None:
        """Close the file; a line after this is an error."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _opened(self) -> int:
        made = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self.path, flags, 0o600)
        if made:
            sync_folder(self._folder)
        return file

    def _follow(self) -> None:
        """Continue in the file that has the log's name now, if it was replaced by another."""
        if self._file < 0:
            raise OSError(errno.EBADF, "the audit log is closed")
        # A restored or rotated file has another inode. Lines written to the old one would be lost.
        ours = os.fstat(self._file)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev):
            # Opened before the old one is closed: if that fails, what is held is still a log. A
            # closed number may be another file's by the next line.
            old, self._file = self._file, self._opened()
            os.close(old)
            self._end = os.fstat(self._file).st_size

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # flock, not lockf: closing another descriptor of the file does not release it.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _write(self, event: str, fields: dict[str, object]) -> AuditHead:
        line: dict[str, Any] = {
            **fields,
            "number": self._head.length + 1,
            "previous": self._head.hash,
            "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "event": event,
        }
        line["signature"] = self._key.sign(signed_part(line)).hex()
        data = canonical_json(line)
        try:
            _write_all(self._file, data + b"\n")
            os.fsync(self._file)  # before the head that covers this line can be sent
        except OSError:  # a full disk: half a line must not stay before the next one
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(data) + 1
        self._count(data)
        return self._head

    def _count(self, line: bytes) -> None:
        self._head = AuditHead(self._head.length + 1, sha256(line))
        self._recent[self._head.length] = self._head.hash
        self._charged = charge_of(line) or self._charged
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def _catch_up(self) -> None:
        """Go on from what other processes have appended.

        A file that became shorter is not trusted: the next line continues from what this process
        has seen, and so shows that something is missing.
        """
        size = os.fstat(self._file).st_size
        if size <= self._end:
            self._end = size
            return
        more = os.pread(self._file, size - self._end, self._end)
        whole = more[: more.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            self._count(line)
        self._end += len(whole)
        self._set_aside(more[len(whole) :])

    def _find_end(self) -> None:
        """Read the last whole line; if it is not readable, count all lines."""
        size = os.fstat(self._file).st_size
        # From the end, block by block: a log of years must not be read at every start.
        tail, start = b"", size
        while start and tail.count(b"\n") < 2:
            start = max(0, start - _BLOCK)
            tail = os.pread(self._file, size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        self._end = size - (len(tail) - len(whole))
        if whole:
            last = whole.split(b"\n")[-2]
            entry = _entry(last)
            number = entry.number if entry and isinstance(entry.number, int) else 0
            if not number:
                with self.path.open("rb") as file:
                    number = sum(line.endswith(b"\n") for line in file)
            self._head = AuditHead(number, sha256(last))
            self._recent[self._head.length] = self._head.hash
            self._charged = self._last_charge()
        self._set_aside(tail[len(whole) :])

    def _last_charge(self) -> LedgerHead:
        """The newest charge that a line names, anywhere in the log."""
        with mmap.mmap(self._file, self._end, access=mmap.ACCESS_READ) as log:
            # A nested value may hold these bytes too: then the search goes on.
            place = log.rfind(_CHARGED)
            while place >= 0:
                start = log.rfind(b"\n", 0, place) + 1
                found = charge_of(log[start : log.find(b"\n", place)])
                if found:
                    return found
                place = log.rfind(_CHARGED, 0, start)
        return LedgerHead()

    def _set_aside(self, torn: bytes) -> None:
        if not torn:
            return
        aside = os.open(self._folder / TORN, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _write_all(aside, torn + b"\n")
            os.fsync(aside)
        finally:
            os.close(aside)
        # Cut only after the copy is durable: a crash in between leaves the bytes twice, not never.
        os.ftruncate(self._file, self._end)
        self._write("log.repaired", {"size": len(torn), "hash": sha256(torn)})


def entries(folder: Path, after: int = 0) -> Iterator[Entry]:
    """The whole lines of a log after a number, oldest first; unreadable lines are skipped.

    :func:`client.records.verify.inspect_state` says whether they are unchanged.
    """
    path = folder / FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in islice(file, after, None):
            if line.endswith(b"\n"):
                entry = _entry(line[:-1])
                if entry is not None:
                    yield entry


def _entry(line: bytes) -> Entry | None:
    try:
        found = read_json(line)
        frame = found["number"], found["at"], found["event"]
    except (ValueError, KeyError, TypeError):
        return None
    fields = {name: value for name, value in found.items() if name not in _FRAME}
    return Entry(*frame, fields, sha256(line))


def charge_of(line: bytes) -> LedgerHead | None:
    """The charge that a line names; None for any other line."""
    entry = _entry(line) if _CHARGED in line else None
    if entry is None or entry.event != CHARGED:
        return None
    number, head = entry.fields.get("charge"), entry.fields.get("head")
    return LedgerHead(number, head) if isinstance(number, int) and isinstance(head, str) else None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
