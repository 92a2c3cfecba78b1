"""What must hold of a state folder before a site opens on it.

Its parts belong together. The store is made first, then the keys, then the audit log. A charge is
durable in the store before the log has a line for it, and the store keeps the log's head only
after the log is on disk. So whenever the process dies: if there are keys there is a store, the log
names no charge that the store lacks, and the store remembers no line that the log lacks. If one of
these is not true, something was emptied, deleted or replaced by an older copy. The site then does
not open, because patients could spend the same budget twice. It does not open with other keys
either: the ledger would recognise no patient.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from client.records import audit_log
from client.records.audit_log import AuditHead, AuditLog
from client.records.chain import broken_chain, stored_charges
from client.records.store import FILE, LOST, RESTORE_KEY, SiteDatabase, ledger_lost
from common import files
from common.errors import SiteError
from common.files import sha256
from common.wire.messages import HASH_OF_NOTHING

KEYS: Final = ("signing", "patients")
"""Of each there is a file ``NAME.key``."""
LOG_HEAD: Final = "audit-log"
"""The fact that holds the audit log's head: its length and its hash."""
KEPT_KEYS: Final = "keys"
"""The fact that holds a hash of all keys."""
_SECRET: Final = ("*.key", f"{FILE}*", f"{audit_log.FILE}")


def is_used(state: Path) -> bool:
    """Whether a site has used this folder: if its store is missing now, it was lost."""
    log = state / audit_log.FILE
    return bool(_keys(state)) or (log.exists() and log.stat().st_size > 0)


def require_private(state: Path) -> None:
    """Refuse a folder, or a secret in it, that other accounts of the machine can read or change.

    Raises:
        SiteError: its mode allows access to others.
    """
    # The write-ahead log (site.sqlite-wal) holds what the database holds, study keys included.
    secret = (path for pattern in _SECRET for path in sorted(state.glob(pattern)))
    close = f"chmod -R go= {shlex.quote(str(state))}"
    files.require_private((state, *secret), SiteError, "site", close=close)


def require_store(state: Path) -> None:
    """The store is made before the keys: keys or a log without a store mean that it was lost.

    Raises:
        SiteError: it is missing.
    """
    if is_used(state) and not (state / FILE).exists():
        raise ledger_lost(state / FILE, f"only {', '.join((*_keys(state), audit_log.FILE))}")


def require_keys(state: Path, store: SiteDatabase) -> None:
    """A store that knows a study once had keys, and so did a log with lines.

    Raises:
        SiteError: a key is missing.
    """
    there, log = _keys(state), state / audit_log.FILE
    missing = [name for name in _key_files() if name not in there]
    noted = log.exists() and log.stat().st_size > 0
    if missing and (noted or store.execute("SELECT 1 FROM approvals").fetchone()):
        raise SiteError(
            "a key of the site is missing; with a new key the ledger would recognise no patient",
            where=state,
            found=f"no {' and no '.join(missing)}",
            remedy=RESTORE_KEY,
        )


def require_same_keys(state: Path, store: SiteDatabase, secrets: Mapping[str, bytes]) -> None:
    """A store belongs to its first keys: with other keys it would recognise no patient.

    Args:
        state: the folder.
        store: open; a new one remembers these keys.
        secrets: by use.

    Raises:
        SiteError: a key was replaced by another.
    """
    # A hash only: the keys themselves must not be in a database that more code reads.
    parts = (use.encode() + b" " + secrets[use] for use in KEYS)
    found, known = sha256(b"consilium/1 keys " + b" ".join(parts)), store.fact(KEPT_KEYS)
    # Only before the first line of the log: later an emptied fact must not accept other keys.
    if not known and remembered_log(store) is None:
        store.keep(KEPT_KEYS, found)
    elif found != known:
        raise SiteError(
            "a key of the site does not belong to its privacy ledger",
            where=state,
            found=f"another {' or '.join(_key_files())}",
            wanted="the keys with which the ledger recognises its patients",
            remedy=RESTORE_KEY,
        )


def require_held(store: SiteDatabase, log: AuditLog, remembered: AuditHead | None) -> None:
    """Check that store and log belong together.

    Args:
        store: open.
        log: open; read before the store is, since another process may be adding to both.
        remembered: the log's head as the store had it before the log was opened.

    Raises:
        SiteError: they do not.
    """
    path, charged = log.path.parent / FILE, log.charged
    if log.head.length and remembered_log(store) is None:
        raise ledger_lost(path, f"an empty database beside an audit log of {log.head.length} lines")
    if remembered and log.hash_at(remembered.length) != remembered.hash:
        raise SiteError(
            "the audit log does not belong to this site's database",
            where=log.path,
            found=f"{log.head.length} lines, without line {remembered.length} as it was written",
            wanted=f"line {remembered.length} with SHA-256 {remembered.hash}",
            remedy=LOST,
        )
    # The chain first: only if each hash follows from the one before does the newest cover all.
    charges = stored_charges(store)
    broken = next(iter(broken_chain(charges)), None)
    if broken:
        raise ledger_lost(path, f"charge {broken[0]}: {broken[1]}")
    # The ledger may be longer than the log by a charge that a crash left without its line. It is
    # never shorter: that is a store from an older backup, in which patients have spent less.
    hashes = [HASH_OF_NOTHING, *(row.hash for row in charges)]
    if hashes[charged.length : charged.length + 1] != [charged.hash]:
        raise ledger_lost(
            path,
            f"{len(charges)} charges, but the audit log records charge {charged.length} "
            f"({charged.hash})",
        )


def remembered_log(store: SiteDatabase) -> AuditHead | None:
    """The log's head as the store remembers it; None in a store that was just made."""
    kept = store.fact(LOG_HEAD)
    return read_remembered(kept) if kept else None


def read_remembered(kept: str) -> AuditHead:
    """Read a head as the store keeps it."""
    length, hash_ = kept.split(" ")
    return AuditHead(int(length), hash_)


def keep_remembered(store: SiteDatabase, head: AuditHead) -> None:
    """Remember the log's head, which is already on disk."""
    store.keep(LOG_HEAD, f"{head.length} {head.hash}")


def _key_files() -> list[str]:
    return [f"{use}.key" for use in KEYS]


def _keys(state: Path) -> list[str]:
    return [name for name in _key_files() if (state / name).exists()]
