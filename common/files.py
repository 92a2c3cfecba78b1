"""Files that are either whole or absent, and hashes of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from stat import S_IMODE
from typing import Any, Final

from common.errors import ConsiliumError
from common.process.killpoints import reach

OTHERS: Final = 0o077
"""What a mode allows everybody but the owner."""


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` so that a reader, or a crash, sees the old file or the new one.

    The bytes go to a neighbour, reach the disk, take the name, and the folder's entry
    reaches the disk too (POSIX ``rename`` is atomic within a file system).

    Raises:
        OSError: it could not be written; ``filename`` is the path, or a folder above it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, data, mode)
    except OSError as error:
        # A full disk gives no name, and the neighbour's would tell nobody what was to be written.
        error.filename = str(path)
        raise


def _write(path: Path, data: bytes, mode: int) -> None:
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    neighbour.unlink(missing_ok=True)  # left by a killed process whose number came again
    descriptor = os.open(neighbour, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            half = len(data) // 2
            file.write(data[:half])
            reach("file.half-written", path.name)
            file.write(data[half:])
            file.flush()
            # Before the rename: otherwise a power cut may leave the new name without its bytes.
            os.fsync(file.fileno())
        neighbour.replace(path)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise
    # The new name is part of the folder, which has to reach the disk by itself.
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_private(
    paths: Iterable[Path], kind: type[ConsiliumError], whose: str, *, close: str | None = None
) -> None:
    """Refuse a folder or a secret that other accounts of the machine can read or change.

    The rule is that of ssh for its private keys: the owner alone, no group either. The mode is not
    corrected silently: an account that could read a key may have read it, and one that could write
    may have changed the ledger. A person has to find that out.

    Args:
        paths: in this order; one that is not there is passed over.
        kind: of the error.
        whose: ``site`` or another noun.
        close: the command that takes the others' rights; by default for the path alone.

    Raises:
        ConsiliumError: the mode of one allows access to others.
    """
    for path in paths:
        try:
            mode = S_IMODE(path.stat().st_mode)
        except FileNotFoundError:  # SQLite's own, which another process has just closed
            continue
        if mode & OTHERS:
            closed = mode & ~OTHERS
            command = close or f"chmod {closed:o} {shlex.quote(str(path))}"
            raise kind(
                f"other accounts of this machine have access to the {whose}'s secrets",
                where=path,
                found=f"mode {mode:04o}",
                wanted=f"mode {closed:04o}: access for the owner only",
                remedy=f"find out who may have read or changed it, then run: {command}",
            )


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON can hold
    """The one way a value is written before it is hashed or signed.

    Keys sorted, no spaces, UTF-8, floats in Python's shortest round-trip form, NaN and
    infinities refused (after RFC 8785, whose number form differs for some exponents).
    """
    # NaN is refused: it has no form in JSON, and would not equal itself when it is read.
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
