"""Stored grey values to values in [0, 1], as they are meant to be seen.

The greyscale pipeline of PS3.4, N.2 with the modules of PS3.3, C.11: modality LUT or
rescale slope and intercept; then VOI LUT or window (linear, linear-exact, sigmoid); then
MONOCHROME1 turned over, so that more of what the detector saw is always brighter.

Where a file gives no window, an image of at most 8 stored bits is taken as it is over
the range of its bits. Deeper and floating-point images use little of their range: they
are scaled from their own 0.5th to their own 99.5th percentile. Nothing is ever taken from
another file, so that no patient's image depends on another patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

Values = NDArray[Any]
Floats = NDArray[np.float64]

_DISPLAY_BITS: Final = 8
_PERCENTILES: Final = (0.5, 99.5)
_SAMPLED: Final = 1 << 22


@dataclass(frozen=True)
class Lookup:
    """A lookup table (PS3.3, C.11.1.1 and C.11.2.1.1)."""

    entries: Floats
    first: int
    top: float

    def __call__(self, values: Values) -> Floats:
        """The entry of each value; values outside the table take its first or last entry."""
        last = len(self.entries) - 1
        places = np.clip(np.floor(values.astype(np.float64)) - self.first, 0, last).astype(np.int64)
        return np.asarray(self.entries[places], dtype=np.float64)


@dataclass(frozen=True)
class Window:
    """A window (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""

    centre: float
    width: float
    function: str

    def __call__(self, values: Floats) -> Floats:
        """Values in [0, 1]: the position within the window."""
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # exp overflows far below the window: 1 / inf is 0
                return np.asarray(1 / (1 + np.exp(-4 * (values - self.centre) / self.width)))
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.centre) / self.width + 0.5, 0, 1)
        if self.width == 1:
            return (values > self.centre - 0.5).astype(np.float64)
        return np.clip((values - (self.centre - 0.5)) / (self.width - 1) + 0.5, 0, 1)


class Greyscale:
    """The pipeline of one file.

    Args:
        dataset: the file's data set.
        stored: all its frames as stored, ``(frames, rows, columns)``, any number type.
        inverted: whether its lowest value is meant to be white (MONOCHROME1).
    """

    def __init__(self, dataset: Dataset, stored: Values, *, inverted: bool) -> None:
        self._dataset = dataset
        self._stored = stored
        self._inverted = inverted
        self._modality_lut = _first_table(dataset, "ModalityLUTSequence")
        self._voi_lut = _first_table(dataset, "VOILUTSequence")
        self._limits: Floats | None = None

    def image(self, frame: int) -> NDArray[np.float32]:
        """One frame, ``(rows, columns)`` in [0, 1]; not-a-number and padding are 0."""
        stored = self._stored[frame]
        values = self._modality(stored, frame)
        seen = self._voi(values, frame)
        if self._inverted:
            seen = 1 - seen
        # After the inversion: background is black in both kinds of image.
        seen = np.nan_to_num(seen, copy=False, nan=0.0)
        padding = padded(self._dataset, stored)
        if padding is not None:
            seen[padding] = 0
        return seen.astype(np.float32)

    def _modality(self, stored: Values, frame: int) -> Floats:
        if self._modality_lut is not None:
            return self._modality_lut(stored)
        module = _frame_module(self._dataset, frame, "PixelValueTransformationSequence")
        slope, intercept = number(module, "RescaleSlope"), number(module, "RescaleIntercept")
        values = stored.astype(np.float64)
        return values if not slope or intercept is None else values * slope + intercept

    def _voi(self, values: Floats, frame: int) -> Floats:
        if self._voi_lut is not None:
            return np.asarray(self._voi_lut(np.nan_to_num(values)) / self._voi_lut.top)
        window = window_of(_frame_module(self._dataset, frame, "FrameVOILUTSequence"))
        if window is not None:
            return window(values)
        # A negative rescale slope turns the two ends around.
        low, high = np.sort(self._modality(self._own_limits(), frame))
        return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)

    def _own_limits(self) -> Floats:
        """The lowest and highest stored value of this file that are told apart."""
        if self._limits is None:
            self._limits = np.asarray(_own_range(self._dataset, self._stored), dtype=np.float64)
        return self._limits


def stored_range(dataset: Dataset, stored: Values) -> tuple[float, float]:
    """The lowest and highest value that Bits Stored and Pixel Representation allow."""
    bits = int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize)
    if dataset.get("PixelRepresentation") == 1:
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def _own_range(dataset: Dataset, stored: Values) -> tuple[float, float]:
    integers = np.issubdtype(stored.dtype, np.integer)
    if integers and int(dataset.get("BitsStored") or 0) in range(1, _DISPLAY_BITS + 1):
        return stored_range(dataset, stored)
    # Every n-th value: percentiles of four million are exact enough, and a long series stays fast.
    sample = stored.reshape(-1)[:: max(1, stored.size // _SAMPLED)]
    padding = padded(dataset, sample)
    if padding is not None:
        sample = sample[~padding]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    low, high = (float(value) for value in np.percentile(sample, _PERCENTILES))
    return (low, high) if high > low else (float(sample.min()), float(sample.max()))


def padded(dataset: Dataset, stored: Values) -> NDArray[np.bool_] | None:
    """Which values fill up the frame and show nothing (PS3.3, C.7.5.1.1.2); None for none."""
    value = number(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def window_of(module: Dataset) -> Window | None:
    """The first window of a module; None where there is none, or none that means anything."""
    centre, width = number(module, "WindowCenter"), number(module, "WindowWidth")
    function = str(module.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(centre, width, function)


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an element as a finite number, or None."""
    value = dataset.get(keyword)
    if isinstance(value, list | tuple) or (
        hasattr(value, "__len__") and not isinstance(value, str)
    ):
        value = value[0] if len(value) else None
    try:
        result = float(value) if value not in (None, "") else math.nan
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def _frame_module(dataset: Dataset, frame: int, macro: str) -> Dataset:
    """A functional group macro: the frame's own, the shared one, or else the data set itself.

    PS3.3, C.7.6.16: the way of enhanced multi-frame objects.
    """
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (*own[frame : frame + 1], *shared[:1]):
        if groups.get(macro):
            module: Dataset = groups.get(macro)[0]
            return module
    return dataset


def _first_table(dataset: Dataset, sequence: str) -> Lookup | None:
    items = dataset.get(sequence)
    if not items or items[0].get("LUTDescriptor") is None or items[0].get("LUTData") is None:
        return None
    return lookup(dataset, items[0].LUTDescriptor, items[0].LUTData)


def lookup(dataset: Dataset, descriptor: Sequence[int], data: bytes | Sequence[int]) -> Lookup:
    """A lookup table from its descriptor (entries, first value mapped, bits) and its data.

    The data are 16-bit words, given as numbers (US) or bytes (OW); entries of 8 bits may
    stand two in a word, the first in its lower half (PS3.5, section 8.1.1).
    """
    count, first, bits = (int(value) for value in descriptor)
    count = count or 1 << 16  # 0 stands for 65536, which 16 bits cannot hold (PS3.3, C.11.1.1.1)
    words: Any = data
    if isinstance(data, bytes):
        little = dataset.file_meta.TransferSyntaxUID.is_little_endian
        words = np.frombuffer(data, dtype="<u2" if little else ">u2")
    packed = np.atleast_1d(np.asarray(words)).astype("<u2").tobytes()
    kind = "<u2" if len(packed) >= 2 * count else "u1"
    entries = np.frombuffer(packed, dtype=kind, count=count).astype(np.float64)
    # Some writers state fewer bits than their entries have: no value may come out above 1.
    return Lookup(entries, first, max(2.0**bits - 1, float(entries.max())))
