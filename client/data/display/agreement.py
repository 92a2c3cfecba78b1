"""Whether pixels are as many, as large and of the shape that their header says.

A decoder that is given other rows and columns than were stored gives a picture, too: one that is
sheared, or the first part of it.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, Final

import numpy as np
from pydicom.encaps import get_frame
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from client.data.display.elements import Module, reject
from client.data.display.greyscale import Padding

if TYPE_CHECKING:
    from client.data.display.elements import Layout
    from client.data.display.lookup import Values

_SOI: Final = 2
"""Bytes before the first marker segment of a JPEG stream (ISO/IEC 10918-1, B.2.1)."""
_NO_FRAME: Final = (0xC4, 0xC8, 0xCC)
"""Of the markers 0xC0 to 0xCF those that begin no frame (B.1.1.3)."""
_JPEG_LS: Final = 0xF7
"""ISO/IEC 14495-1, C.1.1."""


def require_length(data: bytes, layout: Layout) -> None:
    """Require that pixels that are not compressed are as many as the header says, before padding.

    Raises:
        Unusable: they are fewer, or more.
    """
    said = layout.rows * layout.columns * layout.samples * layout.frames * layout.allocated
    # Of four values that are stored, two are colours of two pixels (PS3.3, C.7.6.3.1.2).
    bits = said * 2 // 3 if layout.photometric == "YBR_FULL_422" else said
    size = (bits + 7) // 8
    if len(data) < size:
        reject("Rows", "and its other sizes ask for more pixels than there are; was it cut short?")
    # A byte fills up an odd length, and what it is was never defined.
    if data[size + 1 :].strip(b"\0"):
        reject("Rows", "and its other sizes ask for fewer pixels than there are")


def require_shape(data: bytes, layout: Layout, syntax: str) -> None:
    """Require the rows and columns that a compressed image gives itself.

    RLE gives none, and what is damaged is left to the decoder.

    Raises:
        Unusable: the header has others.
    """
    try:
        frame = get_frame(data, 0, number_of_frames=layout.frames)
        shape = _shape(frame, syntax)
    except Exception:  # noqa: BLE001 - the decoder says what is wrong
        return
    for keyword, said, found in zip(
        ("Rows", "Columns"), (layout.rows, layout.columns), shape, strict=False
    ):
        if said != found:
            reject(keyword, "is not that of the compressed image")


def _shape(frame: bytes, syntax: str) -> tuple[int, ...]:
    if syntax in JPEG2000TransferSyntaxes:
        # The marker SIZ follows SOC (ISO/IEC 15444-1, A.5.1); a file format may be around it.
        right, bottom, left, top = unpack_from(">4I", frame, frame.index(b"\xff\x4f\xff\x51") + 8)
        return bottom - top, right - left
    if syntax not in JPEGTransferSyntaxes + JPEGLSTransferSyntaxes:
        return ()
    at = _SOI
    while True:
        marker, length, _, rows, columns = unpack_from(">xBHBHH", frame, at)
        if marker == _JPEG_LS or (marker & 0xF0 == 0xC0 and marker not in _NO_FRAME):
            # Zero rows are told after the first scan (B.2.5).
            return (rows, columns) if rows else ()
        at += 2 + length


def used_bits(raw: Values, module: Module, layout: Layout) -> Values:
    """Decoded pixels without the bits that the header does not call stored (PS3.5, 8.1.1).

    These may be filled up with zeros or the sign, and in old files hold overlays. Padding is left
    as it is: it need not fit the stored bits.

    Raises:
        Unusable: there are more or fewer frames than the header says, or the other bits hold
            something that nothing explains: it belongs to the values.
    """
    if raw.size != layout.frames * layout.rows * layout.columns * layout.samples:
        reject("NumberOfFrames", "is not how many frames the pixels are")
    shift = layout.allocated - layout.stored
    if not shift:
        return raw
    used = (raw << shift) >> shift
    other = used != raw
    if not other.any():
        return raw
    padding = Padding.of(module, layout)
    if padding is not None:
        fills = padding(raw)
        used, other = np.where(fills, raw, used), other & ~fills
    if layout.signed:
        other &= (raw < 0) | (raw >= 2**layout.stored)
    if other.any() and not module.has_overlay_beside(layout.stored):
        reject("BitsStored", "is too few for the values of the pixels")
    return used
