"""The pixels of a DICOM file: decoded as pydicom does, then brought to [0, 1].

Grey images take the way of :mod:`client.greyscale`. Colour is taken as it is over the
range of its bits: palettes are looked up and YBR is turned into RGB (PS3.3, C.7.6.3.1).
Every frame of a file is an image of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut, get_decoder

from client.dicom import Reason, Unusable, quiet
from client.greyscale import Greyscale, Values, lookup, number, stored_range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

LARGEST: Final = 4 * 2**30
"""Bytes of decoded pixels above which a file is not opened: 4 GiB."""

_LUMA: Final = (0.299, 0.587, 0.114)


def stored_values(dataset: Dataset) -> Values:
    """The pixels as stored, before any lookup or window: what ``dataset.pixel_array`` gives.

    Returns:
        ``(rows, columns)``, ``(frames, rows, columns)``, and both with a last axis of
        samples for colour; the number type of the file. YBR is already RGB.

    Raises:
        Unusable: undecodable.
    """
    return _decode(dataset)[0]


def images(dataset: Dataset) -> Iterator[NDArray[np.float32]]:
    """Every frame, ``(rows, columns)`` or ``(rows, columns, 3)``, float32 in [0, 1].

    Raises:
        Unusable: undecodable, or of a kind that no display knows.
    """
    stored, photometric = _decode(dataset)
    samples = stored.shape[-1] if _is_colour(dataset) else 1
    frames = stored.reshape(-1, *_frame_shape(stored, samples))
    try:
        with quiet():
            yield from _shown(dataset, frames, photometric, samples)
    except Unusable:
        raise
    except Exception as error:  # lookup tables and windows of a damaged file can raise anything
        raise Unusable(
            Reason.UNDECODABLE, f"{type(error).__name__} in its lookup table or window"
        ) from error


def to_channels(image: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """An image ``(h, w)`` or ``(h, w, 3)`` as ``(channels, h, w)``; channels are 1 or 3.

    Grey fills three channels alike; colour becomes luminance (ITU-R BT.601).
    """
    if image.ndim == 2:
        return np.repeat(image[np.newaxis], channels, axis=0)
    if channels == 3:
        return np.ascontiguousarray(np.moveaxis(image, -1, 0))
    red, green, blue = (weight * image[..., i] for i, weight in enumerate(_LUMA))
    return np.asarray(red + green + blue, dtype=np.float32)[np.newaxis]


def _decode(dataset: Dataset) -> tuple[Values, str]:
    """Stored values and the photometric interpretation that they have once decoded."""
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        raise Unusable(Reason.UNDECODABLE, "it names no transfer syntax (0002,0010)")
    try:
        with quiet():
            _refuse_giants(dataset)
            stored, properties = get_decoder(syntax).as_array(dataset)
    except Unusable:
        raise
    except Exception as error:  # decoders of damaged pixels raise whatever they like
        raise Unusable(
            Reason.UNDECODABLE, f"{type(error).__name__} while decoding {_shown_syntax(syntax)}"
        ) from error
    return stored, str(properties["photometric_interpretation"])


def _refuse_giants(dataset: Dataset) -> None:
    size = number(dataset, "BitsAllocated") or 8
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"):
        size *= number(dataset, keyword) or 1
    if size > 8 * LARGEST:
        raise Unusable(Reason.UNDECODABLE, "more than 4 GiB of pixels")


def _is_colour(dataset: Dataset) -> bool:
    return (number(dataset, "SamplesPerPixel") or 1) > 1


def _frame_shape(stored: Values, samples: int) -> tuple[int, ...]:
    return stored.shape[-3:] if samples > 1 else stored.shape[-2:]


def _shown(
    dataset: Dataset, frames: Values, photometric: str, samples: int
) -> Iterator[NDArray[np.float32]]:
    if photometric == "PALETTE COLOR":
        for frame in frames:
            yield _palette(dataset, frame)
    elif samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2"):
        pipeline = Greyscale(dataset, frames, inverted=photometric == "MONOCHROME1")
        for index in range(len(frames)):
            yield pipeline.image(index)
    elif samples == 3:
        low, high = stored_range(dataset, frames)
        for frame in frames:
            yield _scaled(frame, low, high)
    else:
        raise Unusable(Reason.UNDECODABLE, "its photometric interpretation is not supported")


def _palette(dataset: Dataset, frame: Values) -> NDArray[np.float32]:
    """A frame of places in a palette as its colours."""
    if "RedPaletteColorLookupTableData" not in dataset:  # a segmented one
        colours = apply_color_lut(frame, dataset)[..., :3]
        return _scaled(colours, 0, 2.0 ** (8 * colours.dtype.itemsize) - 1)
    tables = [
        lookup(
            dataset,
            dataset[f"{colour}PaletteColorLookupTableDescriptor"].value,
            dataset[f"{colour}PaletteColorLookupTableData"].value,
        )
        for colour in ("Red", "Green", "Blue")
    ]
    top = max(table.top for table in tables)
    return _scaled(np.stack([table(frame) for table in tables], axis=-1), 0, top)


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return scaled.astype(np.float32)


def _shown_syntax(syntax: Any) -> str:  # noqa: ANN401 - pydicom's UID, which mypy sees as str
    """A transfer syntax by its registered name; the rest is a file's own text and not shown."""
    name = str(syntax.name)
    return name if name != str(syntax) else "an unknown transfer syntax"
