"""Ed25519, with the vectors of RFC 8032."""

from __future__ import annotations

import pytest

from common.wire.signing import SigningKey, verify

SECRET = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)


def test_signs_as_the_standard_says() -> None:
    """RFC 8032, section 7.1, test 1: the empty message."""
    key = SigningKey(bytes.fromhex(SECRET))
    assert key.public == PUBLIC
    assert key.sign(b"").hex() == SIGNATURE
    assert verify(PUBLIC, b"", bytes.fromhex(SIGNATURE))


def test_the_same_message_gets_the_same_signature() -> None:
    key = SigningKey(bytes(32))
    assert key.sign(b"reply") == key.sign(b"reply") != key.sign(b"reply ")


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        (PUBLIC, b"x", SIGNATURE),
        (PUBLIC, b"", SIGNATURE[:-2] + "0c"),
        (PUBLIC, b"", ""),
        (SigningKey(bytes(32)).public, b"", SIGNATURE),
        ("no key", b"", SIGNATURE),
        ("", b"", SIGNATURE),
    ],
)
def test_anything_else_is_not_a_signature(public: str, message: bytes, signature: str) -> None:
    assert not verify(public, message, bytes.fromhex(signature))


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(SigningKey(bytes.fromhex(SECRET)))
