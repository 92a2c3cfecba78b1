"""What must hold of a state folder before a site opens on it.

Its parts belong together. The store is made first, then the keys, then the audit log; each charge
is durable in the store before the log has a line for it, and the store keeps the log's head only
once the log is on the disk. So whenever the process dies, keys have a store, the log speaks of no
charge that the store lacks, and the store remembers no line that the log lacks. Where one of these
does not hold, something was emptied, taken away, or put back from an older copy: the site does not
open, since it would let patients spend again what they have spent. Nor does it with other keys than
the store was begun with: the ledger would know nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from stat import S_IMODE
from typing import Final

from client.records import audit_log
from client.records.audit_log import AuditHead, AuditLog
from client.records.chain import ChargeRow, broken_chain
from client.records.store import FILE, LOST, SiteDatabase, gone
from common.errors import SiteError
from common.files import sha256
from common.wire.messages import HASH_OF_NOTHING

KEYS: Final = ("signing", "patients")
"""Of each there is a file ``NAME.key``."""
LOG_HEAD: Final = "audit-log"
"""The fact under which the audit log's head stands: its length and its hash."""
KEPT_KEYS: Final = "keys"
"""The fact under which a hash of all keys stands."""
_OTHERS: Final = 0o077
_SECRET: Final = ("*.key", f"{FILE}*", f"{audit_log.FILE}")


def is_used(state: Path) -> bool:
    """Whether a site has had this folder: a store that is missing now was lost."""
    log = state / audit_log.FILE
    return bool(_keys(state)) or (log.exists() and log.stat().st_size > 0)


def require_private(state: Path) -> None:
    """Refuse a folder, or a secret in it, that other accounts of the machine can get at.

    Nothing is narrowed silently: whoever could read a key may have read it, and whoever could
    write to the folder may have changed the ledger. That is for people to find out.

    Raises:
        SiteError: its mode lets others in.
    """
    secret = (path for pattern in _SECRET for path in sorted(state.glob(pattern)))
    for path in (state, *secret):
        try:
            mode = S_IMODE(path.stat().st_mode)
        except FileNotFoundError:  # SQLite's own, which another process has just closed
            continue
        if mode & _OTHERS:
            raise SiteError(
                "others on this machine can get at the site's secrets",
                where=path,
                found=f"mode {mode:04o}",
                wanted=f"mode {mode & ~_OTHERS:04o}: its owner alone",
                remedy=f"find out who may have read or changed it; then chmod -R go= {state}",
            )


def require_store(state: Path) -> None:
    """The store is made before the keys, so keys or a log without a store have lost it.

    Raises:
        SiteError: it is gone.
    """
    if is_used(state) and not (state / FILE).exists():
        raise gone(state / FILE, f"only {', '.join((*_keys(state), audit_log.FILE))}")


def require_keys(state: Path, store: SiteDatabase) -> None:
    """A store that knows a study has had keys, and so has a log with lines.

    Raises:
        SiteError: a key is gone.
    """
    there, log = _keys(state), state / audit_log.FILE
    missing = [name for name in _key_files() if name not in there]
    noted = log.exists() and log.stat().st_size > 0
    if missing and (noted or store.execute("SELECT 1 FROM approvals").fetchone()):
        raise SiteError(
            "a key of the site is gone: a new one would make its patients strangers to the ledger",
            where=state,
            found=f"no {' and no '.join(missing)}",
            remedy="bring back the newest state folder, whole",
        )


def require_same_keys(state: Path, store: SiteDatabase, secrets: Mapping[str, bytes]) -> None:
    """A store is of the keys that it was begun with: under others its patients are strangers.

    Args:
        state: the folder.
        store: open; of a new one, these become the keys.
        secrets: by use.

    Raises:
        SiteError: a key was put in the place of another.
    """
    parts = (use.encode() + b" " + secrets[use] for use in KEYS)
    found, known = sha256(b"consilium/1 keys " + b" ".join(parts)), store.fact(KEPT_KEYS)
    if not known and remembered_log(store) is None:  # before the first line
        store.keep(KEPT_KEYS, found)
    elif found != known:
        raise SiteError(
            "a key of the site is not the one that its ledger was begun with",
            where=state,
            found=f"another {' or '.join(_key_files())}",
            wanted="the keys under which the ledger knows its patients",
            remedy="bring back the newest state folder, whole",
        )


def require_held(store: SiteDatabase, log: AuditLog, remembered: AuditHead | None) -> None:
    """Hold store and log against each other.

    Args:
        store: open.
        log: open; read before the store is, since another process may be adding to both.
        remembered: the log's head as the store had it before the log was opened.

    Raises:
        SiteError: one of them is not the one that the other belongs to.
    """
    path, charged = log.path.parent / FILE, log.charged
    if log.head.length and remembered_log(store) is None:
        raise gone(path, f"a store that knows nothing, beside a log of {log.head.length} lines")
    if remembered and log.hash_at(remembered.length) != remembered.hash:
        raise SiteError(
            "the audit log is not the one that the site's store belongs to",
            where=log.path,
            found=f"{log.head.length} lines, and not line {remembered.length} as it was written",
            wanted=f"line {remembered.length}, whose SHA-256 is {remembered.hash}",
            remedy=LOST,
        )
    names = ", ".join(field.name for field in fields(ChargeRow))
    rows = store.execute(f"SELECT {names} FROM charges ORDER BY length")  # noqa: S608 - our own
    charges = [ChargeRow(*row) for row in rows]
    broken = next(iter(broken_chain(charges)), None)
    if broken:
        raise gone(path, f"charge {broken[0]}: {broken[1]}")
    hashes = [HASH_OF_NOTHING, *(row.hash for row in charges)]
    if hashes[charged.length : charged.length + 1] != [charged.hash]:
        raise gone(
            path,
            f"{len(charges)} charges, while the audit log has noted charge {charged.length} "
            f"({charged.hash})",
        )


def remembered_log(store: SiteDatabase) -> AuditHead | None:
    """The log's head as the store remembers it; None in a store that was just made."""
    kept = store.fact(LOG_HEAD)
    return read_remembered(kept) if kept else None


def read_remembered(kept: str) -> AuditHead:
    """A head as it stands in the store."""
    length, hash_ = kept.split(" ")
    return AuditHead(int(length), hash_)


def keep_remembered(store: SiteDatabase, head: AuditHead) -> None:
    """Have the store remember the log's head, which is on the disk."""
    store.keep(LOG_HEAD, f"{head.length} {head.hash}")


def _key_files() -> list[str]:
    return [f"{use}.key" for use in KEYS]


def _keys(state: Path) -> list[str]:
    return [name for name in _key_files() if (state / name).exists()]
