"""One generator everywhere: ChaCha20 streams keyed by HKDF from a site's study key.

A site draws a 32-byte *study key* from the operating system when a study is approved.
Every draw (sampling, augmentation, noise) comes from a stream whose key follows from the
study key and from all that the draw belongs to, so that a retry after a crash is the same
release, and the same noise never meets other arrays or other patients.

Sources: RFC 5869 (HKDF), RFC 8439 (ChaCha20), Box and Muller 1958 (normal deviates). The
guarantee is computational: it holds against whoever cannot tell ChaCha20 from randomness.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.files import canonical_json

KEY_BYTES: Final = 32


@dataclass(frozen=True)
class StudyKey:
    """A site's secret for one study; sensitive, never sent, erased when the study closes."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a study key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls) -> StudyKey:
        """A fresh key from the operating system."""
        return cls(os.urandom(KEY_BYTES))


def derive(secret: bytes, **belongs_to: str | int) -> bytes:
    """32 bytes that follow from ``secret`` and from everything named.

    Args:
        secret: input keying material.
        belongs_to: what the derived key is for; each name and value separates domains.
    """
    info = b"consilium/1 " + canonical_json(belongs_to)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def known_secret(seed: int, site: str, use: str) -> bytes:
    """A secret that anyone can repeat from a seed and a site's name: simulations only."""
    return derive(b"known to everyone", seed=seed, site=site, use=use)


class Stream:
    """Deviates from one ChaCha20 keystream, in the order in which they are asked for.

    Args:
        key: 32 bytes that no other stream has.
    """

    def __init__(self, key: bytes) -> None:
        nonce = bytes(16)
        self._keystream = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes of the keystream."""
        return self._keystream.update(bytes(count))

    def uniform(self, shape: int | tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
        """Uniform deviates in [0, 1), 53 bits each, float64 of the given shape."""
        count = int(np.prod(shape))
        words = np.frombuffer(self.bytes(8 * count), dtype="<u8")
        mantissas = (words >> np.uint64(11)).astype(np.float64)
        return (mantissas * 2.0**-53).reshape(shape)

    def normal(self, shape: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Standard normal deviates, float64 of the given shape, by Box and Muller."""
        count = int(np.prod(shape))
        pairs = (count + 1) // 2
        uniforms = self.uniform((2, pairs))
        radius = np.sqrt(-2.0 * np.log1p(-uniforms[0]))
        angle = (2.0 * math.pi) * uniforms[1]
        deviates = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return deviates[:count].reshape(shape)
