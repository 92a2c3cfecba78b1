"""The audit log's head as it leaves the site: sealed, so that only the site can read it.

Every reply commits to the log. The number of lines would tell an opt-out from a stop and a stop
from an expiry. So the head's length and hash leave encrypted and authenticated (ChaCha20-Poly1305,
RFC 8439) under a key derived from the site's signing key, with a random nonce: always the same
number of bytes, never the same bytes twice, and nothing on which a guess could be tried. Under one
key a seal opens to one head, so it commits to it.

A seal is valid only for the ledger's head beside it. Nobody else can make one: a seal that opens
proves that the site once had both heads.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from client.records.audit_log import AuditHead
from common.files import canonical_json
from common.wire.messages import LedgerHead
from common.wire.signing import SigningKey

_NONCE_BYTES: Final = 12
_LENGTH_BYTES: Final = 8


class Seals:
    """Seals heads for one site, and opens its own.

    Args:
        key: the site's.
    """

    def __init__(self, key: SigningKey) -> None:
        self._cipher = ChaCha20Poly1305(key.derived("audit head"))

    def seal(self, ledger: LedgerHead, audit: AuditHead) -> str:
        """A head of the log, for the ledger's head: ``SEAL_DIGITS`` hexadecimal digits."""
        # Random, not a counter: a restored state folder would count the same numbers again, and a
        # nonce used twice shows the difference of two heads.
        nonce = os.urandom(_NONCE_BYTES)
        # A fixed width, or the seal's size would tell how long the log is.
        plain = audit.length.to_bytes(_LENGTH_BYTES, "big") + bytes.fromhex(audit.hash)
        return (nonce + self._cipher.encrypt(nonce, plain, _beside(ledger))).hex()

    def opened(self, ledger: LedgerHead, seal: str) -> AuditHead | None:
        """The head of the log; None where this site did not seal it for that ledger."""
        data = bytes.fromhex(seal)
        nonce, sealed = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
        try:
            plain = self._cipher.decrypt(nonce, sealed, _beside(ledger))
        except InvalidTag:
            return None
        return AuditHead(int.from_bytes(plain[:_LENGTH_BYTES], "big"), plain[_LENGTH_BYTES:].hex())


def _beside(ledger: LedgerHead) -> bytes:
    return b"consilium/1 heads " + canonical_json([ledger.length, ledger.hash])
