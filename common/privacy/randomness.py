"""One generator everywhere: ChaCha20 streams keyed by HKDF from a site's study key.

A site draws a 32-byte *study key* from the operating system when a study is approved.
Every draw (sampling, augmentation, noise) comes from a stream whose key follows from the
study key and from all that the draw belongs to, so that a retry after a crash is the same
release, and the same noise never meets other arrays or other patients.

Sources: RFC 5869 (HKDF), RFC 8439 (ChaCha20), Box and Muller 1958 (normal deviates). The
guarantee is computational: it holds against everyone who cannot
tell ChaCha20 from randomness.

Normal deviates are made by torch, in float64 and by several threads: an update has millions.
Their bits do not depend on the number of threads. They do depend, in the last place, on how
torch's mathematical library takes logarithms, square roots and sines on this processor; the
numerics record holds what decides it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.files import canonical_json

if TYPE_CHECKING:
    import torch

KEY_BYTES: Final = 32
PAIRS: Final = 2**17
"""Pairs of normal deviates made at once: few megabytes, and enough to keep threads busy. It
belongs to what a stream is; another value gives other deviates."""


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
    # The version is part of the key: a later way to derive keys can never repeat one of these.
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
        # No two streams share a key, so a nonce of zeros is used once. 16 bytes: counter and nonce.
        nonce = bytes(16)
        self._keystream = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes of the keystream."""
        return self._keystream.update(bytes(count))

    def uniform(self, shape: int | tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
        """Uniform deviates in [0, 1), 53 bits each, float64 of the given shape."""
        count = int(np.prod(shape))
        words = np.frombuffer(self.bytes(8 * count), dtype="<u8")
        # A float64 has 53 bits; with more, rounding could give 1.0.
        mantissas = (words >> np.uint64(11)).astype(np.float64)
        return (mantissas * 2.0**-53).reshape(shape)

    def normal(self, shape: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Standard normal deviates, float64 of the given shape."""
        blocks = [block.numpy().copy() for block in self.normal_blocks(int(np.prod(shape)))]
        return np.concatenate([np.empty(0), *blocks]).reshape(shape)

    def normal_blocks(self, count: int) -> Iterator[torch.Tensor]:
        """``count`` standard normal deviates, a block at a time, so that memory is bounded.

        Yields:
            Flat float64 of ``2 * PAIRS`` deviates, the last block shorter. The next block is
            written over it; the caller may change it.
        """
        import torch  # not needed to keep or derive keys

        # One more: deviates come in pairs, and the last of an odd number is thrown away.
        largest = min(count + 1, 2 * PAIRS)
        zeros, keystream = memoryview(bytes(8 * largest)), bytearray(8 * largest)
        deviates = torch.empty(largest, dtype=torch.float64)
        for first in range(0, count, 2 * PAIRS):
            wanted = min(count - first, 2 * PAIRS)
            pairs = (wanted + 1) // 2
            # Zeros encrypted are the keystream itself; one buffer, for millions of deviates.
            self._keystream.update_into(zeros[: 16 * pairs], keystream)
            words = torch.frombuffer(keystream, dtype=torch.int64, count=2 * pairs)
            yield box_muller(words, deviates[: 2 * pairs])[:wanted]


def box_muller(words: torch.Tensor, deviates: torch.Tensor) -> torch.Tensor:
    """Normal deviates from random words (Box and Muller 1958).

    A radius is ``sqrt(-2 log u)`` with ``u = |word + 1/2| / 2**63``, which is never zero and
    keeps all its bits where it is small, that is, in the tail. An angle is in [-pi, pi]. The
    largest deviate is ``sqrt(128 log 2)``, about 9.42: the normal distribution is cut off there,
    which changes a pair of deviates with probability 2**-64.

    Args:
        words: int64, an even number, independent and uniform: half for radii, half for angles.
        deviates: float64, as many; written over.

    Returns:
        ``deviates``: radius times cosine, then radius times sine, pair by pair.
    """
    deviates.copy_(words)
    radii, angles = deviates.chunk(2)
    radii.add_(0.5).abs_().mul_(2.0**-63).log_().mul_(-2.0).sqrt_()
    angles.mul_(math.pi * 2.0**-63)
    sines = angles.sin()
    sines.mul_(radii)
    radii.mul_(angles.cos_())
    angles.copy_(sines)
    return deviates
