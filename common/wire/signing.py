"""A site's signature (Ed25519, RFC 8032: deterministic, so the same reply has the same bytes)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class SigningKey:
    """The private half (32 bytes): stays at the site, in a file that only its owner reads."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        return self._key.sign(message)

    def derived(self, purpose: str) -> bytes:
        """A key of 32 bytes for another purpose, which tells nothing of this one (RFC 5869)."""
        info = b"consilium/1 " + purpose.encode()
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
        return kdf.derive(self._key.private_bytes_raw())

    @property
    def public(self) -> str:
        """The public half, as 64 hexadecimal digits."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def verify(public: str, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` of ``message`` was made by the owner of ``public`` (hexadecimal)."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
