"""Lookup tables: modality, VOI and palette (PS3.3, C.11.1.1, C.11.2.1.1 and C.7.6.3.1.5).

A table is read as what it holds. Its writer may have stored its first value with the other sign,
or stated more or fewer bits than its entries have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.data.display.elements import reject, signed_as

if TYPE_CHECKING:
    from client.data.display.elements import Module

Values = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lookup:
    """A lookup table.

    Attributes:
        entries: what values become.
        first: the value that becomes the first entry.
        bits: of an entry, as the file states them.
    """

    entries: Floats
    first: float
    bits: int

    def __call__(self, values: Values) -> Floats:
        """The entry of each value; values outside the table take its first or last entry."""
        last = len(self.entries) - 1
        places = np.clip(np.floor(values.astype(np.float64)) - self.first, 0, last).astype(np.int64)
        return np.asarray(self.entries[places], dtype=np.float64)

    @property
    def top(self) -> float:
        """The entry that is meant to be white: the highest one, unless that needs all the bits."""
        most = int(self.entries.max())
        return 2.0**self.bits - 1 if most.bit_length() == self.bits else float(max(most, 1))

    def of(self, low: float, high: float) -> Lookup:
        """The same table for values of a range: its first value has the range's sign.

        A range that is neither of signed nor of unsigned 16 bits leaves the sign as it is stored.
        """
        if low < 0 and high >= 2**15:
            return self
        return replace(self, first=signed_as(self.first, signed=low < 0))


def lookup(
    module: Module, descriptor: str, data: str, *, little_endian: bool, signed: bool | None = None
) -> Lookup:
    """A lookup table from its descriptor (entries, first value mapped, bits) and its data.

    The data are 16-bit words, given as numbers (US) or bytes (OW); entries of 8 bits may
    stand two in a word, the first in its lower half (PS3.5, section 8.1.1).

    Args:
        module: what has both elements.
        descriptor: the keyword of one.
        data: of the other.
        little_endian: whether words in bytes begin with their lower half.
        signed: whether the values that are looked up are signed; None if not known yet.

    Raises:
        Unusable: an element is missing or cannot be read, or they contradict each other.
    """
    numbers = module.numbers(descriptor)
    if not numbers:
        reject(descriptor, "is missing")
    count, first, bits = (int(number) for number in numbers)
    if bits not in range(1, 17):
        reject(descriptor, "does not say 1 to 16 bits for each entry")
    # 0 stands for 65536, which 16 bits cannot hold; a signed writer stores large counts negative.
    count = count % 2**16 or 2**16
    words = module.table(data)
    try:
        if isinstance(words, bytes):
            words = np.frombuffer(words, dtype="<u2" if little_endian else ">u2")
        packed = np.atleast_1d(np.asarray(words)).astype(np.int64).astype("<u2").tobytes()
    except (TypeError, ValueError, OverflowError):
        reject(data, "cannot be read")
    size = 2 if len(packed) >= 2 * count else 1
    if size == 1 and len(packed) != count + count % 2:  # single bytes fill whole words
        reject(data, "holds fewer entries than its descriptor says")
    if size == 2 and any(packed[2 * count :]):
        reject(data, "holds more entries than its descriptor says")
    entries = np.frombuffer(packed, dtype=f"<u{size}", count=count).astype(np.float64)
    table = Lookup(entries, first, bits)
    return table if signed is None else replace(table, first=signed_as(first, signed=signed))
