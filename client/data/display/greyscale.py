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

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.data.display.elements import Layout, Module, reject, signed_as
from client.data.display.lookup import Floats, Lookup, Values, lookup

_DISPLAY_BITS: Final = 8
_PERCENTILES: Final = (0.5, 99.5)
_SAMPLED: Final = 1 << 22


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
        module: the file's data set.
        layout: how its pixels are stored.
        stored: all its frames as stored, ``(frames, rows, columns)``, any number type.
        little_endian: the byte order of the file.

    Raises:
        Unusable: the header has an element that decides a pixel and cannot be read; so does
            :meth:`image`.
    """

    def __init__(
        self, module: Module, layout: Layout, stored: Values, *, little_endian: bool
    ) -> None:
        self._module = module
        self._layout = layout
        self._stored = stored
        self._little_endian = little_endian
        self._inverted = _inverted(module, layout)
        self._padding = Padding.of(module, layout)
        self._shared = module.items("SharedFunctionalGroupsSequence", 1)
        self._own = module.items("PerFrameFunctionalGroupsSequence")
        if self._own and len(self._own) < len(stored):
            reject("PerFrameFunctionalGroupsSequence", "has fewer items than there are frames")
        self._modality_lut = self._table(module, "ModalityLUTSequence", signed=layout.signed)
        self._voi_lut = self._table(module, "VOILUTSequence")
        self._limits: Floats | None = None

    def image(self, frame: int) -> NDArray[np.float32]:
        """One frame, ``(rows, columns)`` in [0, 1]; not-a-number and padding are 0."""
        stored = self._stored[frame]
        seen = self._voi(self._modality(stored, frame), frame)
        if self._inverted:
            seen = 1 - seen
        # After the inversion: background is black in both kinds of image.
        seen = np.nan_to_num(seen, copy=False, nan=0.0)
        if self._padding is not None:
            seen[self._padding(stored)] = 0
        return seen.astype(np.float32)

    def _modality(self, stored: Values, frame: int) -> Floats:
        if self._modality_lut is not None:
            return self._modality_lut(stored)
        module = self._of_frame(frame, "PixelValueTransformationSequence")
        rescale = module.pair("RescaleSlope", "RescaleIntercept")
        values = stored.astype(np.float64)
        return values if rescale is None else values * rescale[0] + rescale[1]

    def _voi(self, values: Floats, frame: int) -> Floats:
        module = self._of_frame(frame, "FrameVOILUTSequence")
        table = self._voi_lut
        if module is not self._module:
            table = self._table(module, "VOILUTSequence")
        if table is not None:
            low, high = np.sort(self._modality(np.asarray(self._layout.limits), frame))
            table = table.of(low, high)
            return np.asarray(table(np.nan_to_num(values)) / table.top)
        window = window_of(module)
        if window is not None:
            return window(values)
        # A negative rescale slope turns the two ends around.
        low, high = np.sort(self._modality(self._own_limits(), frame))
        return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)

    def _own_limits(self) -> Floats:
        """The lowest and highest stored value of this file that are told apart."""
        if self._limits is None:
            limits = _own_range(self._layout, self._stored, self._padding)
            self._limits = np.asarray(limits, dtype=np.float64)
        return self._limits

    def _of_frame(self, frame: int, macro: str) -> Module:
        """A functional group macro: the frame's own, the shared one, or else the data set itself.

        PS3.3, C.7.6.16: the way of enhanced multi-frame objects.
        """
        for groups in (*self._own[frame : frame + 1], *self._shared):
            for module in groups.items(macro, 1):
                return module
        return self._module

    def _table(self, module: Module, sequence: str, *, signed: bool | None = None) -> Lookup | None:
        for item in module.items(sequence, 1):
            return lookup(
                item,
                "LUTDescriptor",
                "LUTData",
                little_endian=self._little_endian,
                signed=signed,
            )
        return None


@dataclass(frozen=True)
class Padding:
    """Which values fill up a frame and show nothing (PS3.3, C.7.5.1.1.2)."""

    low: float
    high: float

    def __call__(self, stored: Values) -> NDArray[np.bool_]:
        """Whether each value is padding."""
        return np.asarray((stored >= self.low) & (stored <= self.high))

    @classmethod
    def of(cls, module: Module, layout: Layout) -> Padding | None:
        """What a file states; None for none."""
        kind = "" if layout.integer else "Float" if layout.allocated == 32 else "DoubleFloat"
        keyword = f"{kind}PixelPaddingValue"
        value, limit = module.number(keyword), module.number(f"{kind}PixelPaddingRangeLimit")
        if value is None:
            if limit is not None:
                reject(keyword, "is missing, and there is a range limit")
            return None
        ends = [value if end is None else end for end in (value, limit)]
        if layout.integer:
            ends = [_padding_as_stored(end, layout) for end in ends]
        return cls(min(ends), max(ends))


def window_of(module: Module) -> Window | None:
    """The first window of a module, or None.

    Raises:
        Unusable: one half of it is missing, or it has no width.
    """
    ends = module.pair("WindowCenter", "WindowWidth")
    if ends is None:
        return None
    centre, width = ends
    function = module.term("VOILUTFunction") or "LINEAR"
    if function == "LINEAR" and width < 1:
        reject("WindowWidth", "is less than 1, which the function LINEAR does not allow")
    return Window(centre, width, function)


def _inverted(module: Module, layout: Layout) -> bool:
    """Whether the lowest value is meant to be white."""
    inverted = layout.photometric == "MONOCHROME1"
    shape = module.term("PresentationLUTShape")
    # Programs differ in which of the two they believe.
    if shape is not None and (shape == "INVERSE") != inverted:
        reject("PresentationLUTShape", f"is {shape}, and {layout.photometric} says otherwise")
    return inverted


def _padding_as_stored(value: float, layout: Layout) -> float:
    value = signed_as(value, signed=layout.signed)
    # A writer of signed bytes may fill the other eight bits with zeros.
    filled = layout.signed and layout.allocated == 8 and 2**7 <= value < 2**8
    return value - 2**8 if filled else value


def _own_range(layout: Layout, stored: Values, padding: Padding | None) -> tuple[float, float]:
    if layout.integer and layout.stored <= _DISPLAY_BITS:
        return layout.limits
    # Every n-th value: percentiles of four million are exact enough, and a long series stays fast.
    sample = stored.reshape(-1)[:: max(1, stored.size // _SAMPLED)]
    if padding is not None:
        sample = sample[~padding(sample)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    low, high = (float(value) for value in np.percentile(sample, _PERCENTILES))
    return (low, high) if high > low else (float(sample.min()), float(sample.max()))
