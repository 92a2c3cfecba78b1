"""Masks in PNG and NIfTI: one slice, whose values say the class of each pixel.

A PNG lies as the image does: its first row is the image's. A NIfTI's axes are turned to the image's
columns and rows by its affine, which is in RAS+ where DICOM is in LPS+, and mirrored only where
both files say that they run in opposite directions. An image without an orientation (a projection)
gives nothing to compare with: the first axis is its columns, the second its rows, as nibabel and
ITK write them.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from client.data.dicom import MOST_BYTES, Reason, Unusable
from client.data.display.placement import orientation
from client.data.pixels import MOST_PIXELS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PNG: Final = b"\x89PNG\r\n\x1a\n"
_GZIP: Final = b"\x1f\x8b"
_GZIPPED: Final = 31
"""zlib's word for a stream with gzip's header."""
_DEPTHS: Final = {"1": 1, "L": 8, "P": 8, "I;16": 16, "I;16B": 16, "I": 16}
_ALIKE: Final = 0.9
_RAS: Final = np.array([-1.0, -1.0, 1.0])
"""What turns a direction in LPS into one in RAS."""


def is_nifti(data: bytes) -> bool:
    """Whether a file is NIfTI-1 or NIfTI-2 in one file, perhaps packed by gzip."""
    return _version(_unpacked(data, 1024)) is not None


def png_values(data: bytes) -> NDArray[np.int64]:
    """The palette's places or grey values of a PNG, ``(rows, columns)``.

    Raises:
        Unusable: it has colours, several pictures or too many pixels.
    """
    with Pillow.open(BytesIO(data), formats=["PNG"]) as picture:
        if picture.mode not in _DEPTHS or getattr(picture, "n_frames", 1) > 1:
            raise Unusable(
                Reason.BAD_MASK,
                "it has colours, transparency or several pictures: grey or a palette is wanted",
            )
        _require_size(*picture.size)
        values = np.asarray(picture).astype(np.int64)
    # Pillow spreads grey values of two and four bits over eight.
    depth, colours = data[24], data[25]
    return values // (255 // (2**depth - 1)) if depth in (2, 4) and not colours else values


def nifti_values(data: bytes, image: Dataset) -> NDArray[np.int64]:
    """The values of a NIfTI of one slice, ``(rows, columns)`` of the image.

    Raises:
        Unusable: it has several slices, colours, fractions or another orientation.
    """
    import nibabel  # here: only sites with such masks need it

    plain = _unpacked(data, MOST_BYTES + 1)
    if len(plain) > MOST_BYTES:
        raise Unusable(Reason.TOO_LARGE, f"more than {MOST_BYTES >> 20} MiB, unpacked")
    kind: Any = nibabel.Nifti2Image if _version(plain) == 2 else nibabel.Nifti1Image
    volume = kind.from_bytes(plain)
    shape = (*volume.shape, 1, 1, 1)
    _require_size(*volume.shape)
    singles = [axis for axis in range(3) if shape[axis] == 1]
    if not singles or any(side != 1 for side in shape[3:]):
        sides = "x".join(map(str, volume.shape))
        raise Unusable(Reason.MASK_SIZE, f"it has {sides} voxels; one slice is wanted")
    across = singles[-1]
    first, second = (axis for axis in range(3) if axis != across)
    values = np.asarray(volume.dataobj)
    if values.dtype.fields or values.dtype.kind not in "iuf":
        raise Unusable(Reason.BAD_MASK, "its voxels are no plain numbers")
    whole = np.nan_to_num(values, nan=-0.5, posinf=-0.5, neginf=-0.5)
    if (whole != np.rint(whole)).any():
        raise Unusable(Reason.BAD_MASK, "its values are no whole numbers")
    flat = whole.reshape(shape[:3]).squeeze(across).astype(np.int64)
    directions = [volume.affine[:3, axis] for axis in (first, second)]
    known = bool(int(volume.header["sform_code"]) or int(volume.header["qform_code"]))
    return _turned(flat, directions if known else None, orientation(image, 0))


def _turned(
    values: NDArray[np.int64],
    directions: list[NDArray[np.float64]] | None,
    wanted: tuple[NDArray[np.float64], ...] | None,
) -> NDArray[np.int64]:
    """Values over two axes of known directions, over the rows and columns of the image."""
    if wanted is None:
        return values.T
    if directions is None:
        raise Unusable(
            Reason.BAD_MASK, "it says nothing of its orientation (sform and qform are 0)"
        )
    units = [each / np.linalg.norm(each) for each in directions]
    columns, rows = (each * _RAS for each in wanted)
    # cosines[a, b]: between the mask's axis a and the image's direction b.
    cosines = np.array([[each @ columns, each @ rows] for each in units])
    if min(abs(cosines[0, 0]), abs(cosines[1, 1])) < _ALIKE:
        values, cosines = values.T, cosines[::-1]
    along = cosines.diagonal()
    if not (np.abs(along) >= _ALIKE).all():
        raise Unusable(Reason.BAD_MASK, "its slice lies in another plane than its image")
    return values[:: 1 if along[0] > 0 else -1, :: 1 if along[1] > 0 else -1].T


def _require_size(*sides: int) -> None:
    if np.prod(sides, dtype=np.float64) > MOST_PIXELS:
        raise Unusable(Reason.TOO_LARGE, f"more than {MOST_PIXELS >> 20} MiPixels")


def _unpacked(data: bytes, most: int) -> bytes:
    """A file's bytes, unpacked if need be, and no more of them than are asked for."""
    if data[:2] != _GZIP:
        return data[:most]
    return zlib.decompressobj(_GZIPPED).decompress(data, most)


def _version(data: bytes) -> int | None:
    """NIfTI's version, by its magic (nifti1.h, nifti2.h)."""
    if data[344:348] == b"n+1\0":
        return 1
    return 2 if data[4:8] == b"n+2\0" else None
