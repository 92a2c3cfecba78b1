"""The audit log's own chain: is each line signed, in its place, and the one after the line before?

Nothing but the log and the site's public key is needed for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from client.records.audit_log import signed_part
from client.records.recount import Finding
from common.documents import read_json
from common.files import canonical_json
from common.wire.signing import verify

_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


def breaks(lines: Sequence[bytes], hashes: Sequence[str], key: str) -> list[Finding]:
    """Each break of the chain once: what follows a break and holds together is not named.

    Args:
        lines: of the log, without their ends.
        hashes: SHA-256 of nothing, and then of each line.
        key: the site's public signing key, 64 hexadecimal digits.
    """
    found: list[Finding] = []
    foreign = before = 0
    previous_is_sound = True
    for number, line in enumerate(lines, start=1):
        entry = entry_of(line)
        what = None
        sound = entry is not None and is_signed(entry, key)
        if entry is None:
            what = "it is no entry of an audit log"
        elif not sound:
            what, foreign = "it was changed, or another site signed it", foreign + 1
        elif entry["number"] != before + 1:
            what = _gap(entry["number"], number, before)
        elif previous_is_sound and entry["previous"] != hashes[number - 1]:
            # What a changed line is followed by names the hash that it had before.
            what = "it follows another line than the one before it"
        if what:
            found.append((number, what))
        before = entry["number"] if entry and sound else before + 1
        previous_is_sound = sound
    if len(lines) > 1 and foreign == len(lines):
        return [(1, "no line is signed by this site: the log is another site's")]
    return found


def entry_of(line: bytes) -> dict[str, Any] | None:
    """An entry in exactly the form in which it is written."""
    try:
        entry = read_json(line)
        canonical = canonical_json(entry)
    except ValueError:
        return None
    wanted = {"number": int, "previous": str, "at": str, "event": str, "signature": str}
    if canonical != line or not isinstance(entry, dict):
        return None
    return entry if all(type(entry.get(name)) is kind for name, kind in wanted.items()) else None


def is_signed(entry: dict[str, Any], key: str) -> bool:
    """Whether the site has signed an entry."""
    signature = entry["signature"]
    if _SIGNATURE.fullmatch(signature) is None:
        return False
    return verify(key, signed_part(entry), bytes.fromhex(signature))


def is_sound(line: bytes, key: str) -> bool:
    """Whether a line is an entry that the site has signed."""
    entry = entry_of(line)
    return entry is not None and is_signed(entry, key)


def ends_changed(tail: bytes) -> bool:
    """Whether what stands after the last line's end is a line whose end was changed.

    What a crash leaves is the beginning of a line; a whole one with more behind it is not.
    """
    text = tail.decode("latin-1")  # the beginning of a line may end within a character
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return len(text) > end


def _gap(found: int, number: int, before: int) -> str:
    if found > before + 1:
        return f"one or more lines are missing before line {number}: entry {found} stands here"
    return f"entry {found} stands here: lines were removed, added or moved"
